"""The pages: tasks and their hosts, what these printed, and the fleet. Rendered here; a small script only keeps them up to date."""
