"""INSERTs that know `ON CONFLICT`, of which each database's dialect has its own."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite


def insert(connection: Connection, row: type[Any]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT into the table of `row`, in the dialect of this connection."""
    return postgresql.insert(row) if connection.dialect.name == "postgresql" else sqlite.insert(row)
