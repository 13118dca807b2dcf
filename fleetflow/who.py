"""Who we are, as tasks and the audit trail name us."""

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.audit import Actor


def user() -> str:
    """The user who is logged in here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "somebody"


def me() -> "Actor":
    """The same, who changes something."""
    from models.audit import Actor

    return Actor(user(), "command line")
