"""Alembic's scripts, one step a version of the tables."""
