"""The database, open for as long as a command asks it something."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fleetflow.who import me
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


@contextmanager
def recorded(settings: Settings, action: str, name: str, detail: str = "") -> Iterator[None]:
    """Make a change that is not in the database, but for its entry in the audit trail.

    The entry stays only where the change was made, and the change is not made where the entry cannot stand. Raises `UnavailableError`.
    """
    from models import audit, database

    database.make(settings.database)  # whoever adds hosts may do so before the first run
    with open_access(settings) as access, access.writing() as connection:
        audit.write(connection, me(), action, name, detail=detail)
        yield
