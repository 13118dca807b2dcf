"""Credentials: what SSH logs in with on some hosts, kept by Prefect under a name and read by the worker when a task begins.

No `repr` shows what is secret, and nobody stores it: what is stored, logged and shown is the name.
"""

from dataclasses import dataclass, field

from models.errors import UsageError
from models.names import BLOCK


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """The values that stand behind a name. Equal ones share connections."""

    name: str
    user: str | None = None
    key: str | None = field(default=None, repr=False)  # the text of a private key
    passphrase: str | None = field(default=None, repr=False)  # of the key
    password: str | None = field(default=None, repr=False)
    jump: str | None = None  # as ProxyJump spells it; these hosts are logged in to with the same key and password


def check_name(name: str) -> None:
    """Raise `UsageError` unless credentials can be called so."""
    if not BLOCK.fullmatch(name):
        raise UsageError(f"credentials {name[:60]!r}: give the name of a block, of small letters, digits and dashes")
