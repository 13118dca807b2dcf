"""How hosts, users, groups and tags may be spelled, and how `user@name:port` is cut."""

import ipaddress
import re
from dataclasses import dataclass

MAX_NAME = 253  # RFC 1035: what a host name may be long

HOST = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}")
TAG_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TAG_VALUE = re.compile(r"[\w.:/+@=-]{1,255}")
BLOCK = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # what Prefect lets a block be called


@dataclass(frozen=True, slots=True)
class Spelling:
    """A host as somebody spelled it. `text` is the whole of it."""

    text: str
    host: str  # without user, port and the brackets of IPv6
    user: str | None = None
    port: int | None = None
    is_ip: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it needs no inventory: a user, a port or an IP address says enough."""
        return self.is_ip or self.user is not None or self.port is not None


def parse(text: str) -> Spelling:
    """Read `[user@]name[:port]`, where name may be an IP address (IPv6 with a port in brackets); raises `ValueError` with the reason."""
    if text.count(".") != 3 and HOST.fullmatch(text):
        return Spelling(text, text)  # most names: neither user, port nor address
    head, at, rest = text.rpartition("@")
    user = _check(USER, head, "user") if at else None
    host, port = _cut_port(rest)
    if is_ip(host):
        return Spelling(text, host, user, port, is_ip=True)
    return Spelling(text, _check(HOST, host, "name"), user, port)


def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, the latter perhaps with a zone: fe80::1%eth0."""
    if not (_IPV6 if ":" in text else _IPV4).fullmatch(text):
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether this is a machine's name or address for itself."""
    return ipaddress.ip_address(host).is_loopback if is_ip(host) else host == "localhost"


def join(host: str, user: str | None = None, port: int | None = None) -> str:
    """The spelling of these parts, as ProxyJump takes it too."""
    bracketed = f"[{host}]" if ":" in host else host
    return (f"{user}@" if user else "") + (f"{bracketed}:{port}" if port else bracketed)


_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){3}")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]{1,32})?")  # ip_address takes any zone at all


def _cut_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, end, rest = text[1:].partition("]")
        if not end or ":" not in host or not is_ip(host):
            raise ValueError(f"{text!r} is not an IPv6 address in brackets")
        if rest and not rest.startswith(":"):
            raise ValueError(f"{text!r}: behind the bracket only :port may stand")
        return host, _port(rest[1:]) if rest else None
    if text.count(":") > 1 and is_ip(text):
        return text, None
    host, colon, port = text.partition(":")
    return host, _port(port) if colon else None


def _port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    raise ValueError(f"{text[:40]!r} is not a port: give a number from 1 to 65535")


def _check(pattern: re.Pattern[str], text: str, kind: str) -> str:
    if pattern.fullmatch(text):
        return text
    if not text:
        raise ValueError(f"there is no {kind}")
    if text.startswith("-"):
        raise ValueError(f"{kind} {text[:40]!r} looks like an option: it may not begin with -")
    bad = next((char for char in text if not re.fullmatch(r"[A-Za-z0-9_.+-]", char)), None)
    if bad is not None:
        raise ValueError(f"{kind} {text[:40]!r} holds {bad!r}; letters, digits, '.', '_' and '-' may stand there")
    raise ValueError(f"{text[:40]!r} is not a {kind}" if len(text) <= MAX_NAME else f"{kind} {text[:40]!r}... is longer than {MAX_NAME}")
