"""What each keyword of ssh_config(5) that fleetflow heeds may hold, read from its line once."""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from executors.ssh.jumps import Hop, parse_jumps
from models.sshconfig import Line
from models.values import HostKeyPolicy
from models.wildcards import matches


@dataclass
class Options:
    """The values found so far for one host, tokens not expanded; a value that is set is never set again."""

    hostname: str | None = None
    port: int | None = None
    user: str | None = None
    identity_files: list[str] | None = None
    certificate_files: list[str] | None = None
    identities_only: bool | None = None
    identity_agent: str | None = None
    proxy_jump: tuple[Hop, ...] | None = None
    proxy_command: str | None = None
    user_known_hosts_files: list[str] | None = None
    global_known_hosts_files: list[str] | None = None
    strict_host_key_checking: HostKeyPolicy | None = None
    host_key_alias: str | None = None
    hash_known_hosts: bool | None = None
    no_host_authentication_for_localhost: bool | None = None
    host_key_algorithms: str | None = None
    connect_timeout: int | None = None
    server_alive_interval: int | None = None
    server_alive_count_max: int | None = None
    preferred_authentications: list[str] | None = None
    pubkey_authentication: bool | None = None
    password_authentication: bool | None = None
    kbd_interactive_authentication: bool | None = None
    address_family: socket.AddressFamily | None = None
    bind_address: str | None = None
    canonicalize_hostname: bool | None = None
    tag: str | None = None
    lines: dict[str, Line] = field(default_factory=dict)  # where each value stands, for errors that come later

    def apply(self, setting: "Setting") -> None:
        """Take a value unless an earlier line has set it; key files are collected."""
        name, value = setting.name, setting.value
        before = getattr(self, name)
        if name in {"identity_files", "certificate_files"}:
            value = before if value in (before or ()) else [*(before or ()), value]
        elif value is None or before is not None or self._is_settled(name, value):
            return
        setattr(self, name, value)
        self.lines.setdefault(name, setting.line)

    def _is_settled(self, name: str, value: object) -> bool:
        """Of ProxyJump and ProxyCommand the first one counts, but `ProxyJump none` leaves room for a command."""
        if name == "proxy_jump":
            return self.proxy_command is not None and value != ()
        return name == "proxy_command" and bool(self.proxy_jump)


@dataclass(frozen=True, slots=True)
class Setting:
    """A line whose value has been read. A value of None says: as if the line were not there."""

    name: str
    value: object
    line: Line


def read_setting(line: Line) -> Setting | None:
    """Read the value of a line; None for keywords that fleetflow does not heed. Raises `SettingsError` with file and line."""
    if line.keyword not in _READERS:
        return None
    name, reader = _READERS[line.keyword]
    return Setting(name, reader(line), line)


def select_algorithms(written: str | None, default: Sequence[str]) -> list[str]:
    """Apply a list as HostKeyAlgorithms has it (`+` behind, `^` before, `-` without, wildcards) to the ones that we speak."""
    if not written:
        return list(default)
    sign, patterns = (written[0], written[1:]) if written[0] in "+-^" else ("", written)
    named = list(dict.fromkeys(name for pattern in patterns.split(",") for name in default if matches(name, pattern)))
    others = [name for name in default if name not in named]
    return {"": named, "+": list(default), "-": others, "^": named + others}[sign]


def _one(line: Line) -> str:
    if len(line.args) != 1 or not line.args[0]:
        raise line.error(f"{line.keyword} takes one value, not {line.text!r}")
    return line.args[0]


def _one_of(choices: Mapping[str, object]) -> Callable[[Line], object]:
    def read(line: Line) -> object:
        word = _one(line).lower()
        if word not in choices:
            raise line.error(f"{line.keyword} is one of {', '.join(choices)}, not {word!r}")
        return choices[word]

    return read


def _several(line: Line) -> list[str]:
    if not all(line.args) or ("none" in map(str.lower, line.args) and len(line.args) > 1):
        raise line.error(f"{line.keyword} takes file names, or none alone")
    return list(line.args)


def _comma_list(line: Line) -> list[str]:
    return _one(line).split(",")


def _number(line: Line) -> int:
    word = _one(line)
    if not re.fullmatch(r"[0-9]{1,9}", word):
        raise line.error(f"{line.keyword} is a number, not {word!r}")
    return int(word)


def _port(line: Line) -> int:
    word = _one(line)
    try:
        port = int(word) if word.isdecimal() else socket.getservbyname(word, "tcp")
    except OSError:
        port = 0
    if not 0 < port < 65536:
        raise line.error(f"{word!r} is not a port")
    return port


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _seconds(line: Line) -> int | None:
    """TIME FORMATS of sshd_config(5): 90, 1m30s; `none` counts as not set."""
    word = _one(line).lower()
    if word == "none":
        return None
    if not re.fullmatch(r"(\d+[smhdw])*(\d+)?", word):
        raise line.error(f"{word!r} is not a time")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw]?)", word))


def _whole_text(line: Line) -> str:
    """A command goes to the shell as it stands, quotes and all."""
    return line.text.lstrip(" \t=")


def _jumps(line: Line) -> tuple[Hop, ...]:
    try:
        return parse_jumps(_whole_text(line))
    except ValueError as error:
        raise line.error(f"proxyjump: {error}") from None


_flag = _one_of({"yes": True, "no": False, "true": True, "false": False})

_READERS: Mapping[str, tuple[str, Callable[[Line], object]]] = {
    "hostname": ("hostname", _one),
    "port": ("port", _port),
    "user": ("user", _one),
    "identityfile": ("identity_files", _one),
    "identityfile2": ("identity_files", _one),
    "certificatefile": ("certificate_files", _one),
    "identitiesonly": ("identities_only", _flag),
    "identityagent": ("identity_agent", _one),
    "proxyjump": ("proxy_jump", _jumps),
    "proxycommand": ("proxy_command", _whole_text),
    "userknownhostsfile": ("user_known_hosts_files", _several),
    "globalknownhostsfile": ("global_known_hosts_files", _several),
    "stricthostkeychecking": (
        "strict_host_key_checking",
        _one_of(
            {
                "yes": HostKeyPolicy.STRICT,
                "true": HostKeyPolicy.STRICT,
                "ask": HostKeyPolicy.STRICT,  # nobody is there to answer
                "accept-new": HostKeyPolicy.ACCEPT_NEW,
                "no": HostKeyPolicy.OFF,
                "false": HostKeyPolicy.OFF,
                "off": HostKeyPolicy.OFF,
            }
        ),
    ),
    "hostkeyalias": ("host_key_alias", _one),
    "hashknownhosts": ("hash_known_hosts", _flag),
    "nohostauthenticationforlocalhost": ("no_host_authentication_for_localhost", _flag),
    "hostkeyalgorithms": ("host_key_algorithms", _one),
    "connecttimeout": ("connect_timeout", _seconds),
    "serveraliveinterval": ("server_alive_interval", _seconds),
    "serveralivecountmax": ("server_alive_count_max", _number),
    "preferredauthentications": ("preferred_authentications", _comma_list),
    "pubkeyauthentication": (
        "pubkey_authentication",
        _one_of({"yes": True, "no": False, "true": True, "false": False, "unbound": True, "host-bound": True}),
    ),
    "dsaauthentication": ("pubkey_authentication", _flag),
    "passwordauthentication": ("password_authentication", _flag),
    "kbdinteractiveauthentication": ("kbd_interactive_authentication", _flag),
    "challengeresponseauthentication": ("kbd_interactive_authentication", _flag),
    "skeyauthentication": ("kbd_interactive_authentication", _flag),
    "tisauthentication": ("kbd_interactive_authentication", _flag),
    "addressfamily": (
        "address_family",
        _one_of({"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}),
    ),
    "bindaddress": ("bind_address", _one),
    "canonicalizehostname": ("canonicalize_hostname", _one_of({"yes": True, "no": False, "true": True, "false": False, "always": True})),
    "tag": ("tag", _one),
}
