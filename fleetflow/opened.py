"""The database, open for as long as a command asks it something."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.access import Access


@contextmanager
def open_access(settings: Settings) -> "Iterator[Access]":
    """The way into our database; raises `UnavailableError`."""
    from models.access import Access

    access = Access.open(settings.database)
    try:
        yield access
    finally:
        access.close()
