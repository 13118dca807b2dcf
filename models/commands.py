"""What people type as a command, checked alike at every door: command line, flow parameters."""

import base64
import binascii
import re
from collections.abc import Iterable

from models.errors import UsageError
from models.values import Command

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def parse_env(entries: Iterable[str]) -> dict[str, str]:
    """Read `NAME=value` entries; raises `UsageError`."""
    env = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not separator or not _NAME.fullmatch(name):
            raise UsageError(f"env {entry!r}: write NAME=value, with a NAME of letters, digits and _")
        if "\0" in value:
            raise UsageError(f"env {name}: a value cannot hold a NUL byte")
        env[name] = value
    return env


def encode_stdin(data: bytes) -> tuple[str, str]:
    """The flow parameters `stdin` and `stdin_encoding` for these bytes."""
    try:
        return data.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


def decode_stdin(text: str, encoding: str) -> bytes:
    """The bytes that the flow parameters `stdin` and `stdin_encoding` stand for; raises `UsageError`."""
    if encoding == "text":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UsageError(f"stdin is not base64: {error}") from None


def check(command: Command) -> None:
    """Raise `UsageError` unless the command can be run."""
    if not command.script.strip():
        raise UsageError("the command is empty")
    if "\0" in command.script:
        raise UsageError("the command cannot hold a NUL byte")
    if command.cwd is not None and ("\0" in command.cwd or not command.cwd):
        raise UsageError(f"cwd {command.cwd!r} is not the name of a folder")
    check_seconds("timeout", command.timeout)


def check_limits(forks: int, connect_timeout: float) -> None:
    """Raise `UsageError` unless these limits make sense."""
    if forks < 1:
        raise UsageError(f"forks {forks}: give at least 1")
    check_seconds("connect_timeout", connect_timeout)


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise `UsageError` unless this is no limit at all, or a number of seconds over 0."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"{name} {seconds:g}: give a number of seconds over 0")
