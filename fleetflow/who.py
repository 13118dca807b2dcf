"""Who we are, as the audit trail names us."""

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.audit import Actor


def me() -> "Actor":
    """The user who is logged in here."""
    from models.audit import Actor

    return Actor(getpass.getuser(), "command line")
