"""The HTTP service that agents call: commands down, output and results up."""
