"""The hosts that a connection jumps through, as ProxyJump and `ssh -J` spell them."""

import re
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Hop:
    """One jump host; what is None is decided by the configuration of that host itself."""

    host: str
    port: int | None = None
    user: str | None = None


def parse_jumps(text: str) -> tuple[Hop, ...]:
    """Read `[user@]host[:port]` or `ssh://` addresses with commas, nearest first; `none` is empty. Raises `ValueError`."""
    if text.lower() == "none":
        return ()
    return tuple(_parse_hop(part.strip(" \t")) for part in text.split("#")[0].split(","))


_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:/\[\]][^:/]*))(?:[:/](?P<port>\d*))?")


def _parse_hop(text: str) -> Hop:
    is_uri = text.startswith("ssh://")
    user, at, address = text.removeprefix("ssh://").rpartition("@")
    found = _ADDRESS.fullmatch(address.removesuffix("/") if is_uri else address)
    if found is None or (at and not user):
        raise ValueError(f"{text!r} is not [user@]host[:port]")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text!r} has a port out of range")
    return Hop(found["bracketed"] or found["host"], port, (unquote(user.split(";")[0]) if is_uri else user) or None)
