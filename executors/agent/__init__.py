"""The agent: the program that runs on a host, and how the worker reaches it through the hub."""
