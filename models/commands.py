"""What people type as a command, checked alike at every door: command line, flow parameters."""

import base64
import binascii
import json
import re
from collections.abc import Iterable

from models.errors import UsageError
from models.secrets import PREFIX
from models.values import Command

_UMASK = re.compile(r"0?[0-7]{3}", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_STRING_LIMIT = 128 * 1024  # MAX_ARG_STRLEN of Linux
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
    what = "script" if command.interpreter else "command"
    if not command.script.strip():
        raise UsageError(f"the {what} is empty")
    if "\0" in command.script:
        raise UsageError(f"the {what} cannot hold a NUL byte")
    if command.cwd is not None and ("\0" in command.cwd or not command.cwd):
        raise UsageError(f"cwd {command.cwd!r} is not the name of a folder")
    if command.umask is not None and not _UMASK.fullmatch(command.umask):
        raise UsageError(f"umask {command.umask!r}: give three octal digits, such as 027")
    _check_become(command)
    _check_arguments(command)
    check_seconds("timeout", command.timeout)


def _check_become(command: Command) -> None:
    user = command.become
    if user is not None and (not user.isprintable() or user.strip() != user or user.startswith("-") or user in {"", "#"}):
        raise UsageError(f"become_user {user!r} is not the name of a user")
    password = command.become_password
    if password is None:
        return
    if user is None:
        raise UsageError("become_password is given, but not become")
    if not password.startswith(PREFIX) or not _SECRET.fullmatch(password.removeprefix(PREFIX)):
        raise UsageError("become_password: name a secret of the worker, as secret:NAME; the password itself would be stored and shown")


def _check_arguments(command: Command) -> None:
    if command.arguments and not command.interpreter:
        raise UsageError("arguments are for a script; a command has them in its text")
    for number, argument in enumerate(command.arguments, 1):
        if "\0" in argument:
            raise UsageError(f"argument {number} cannot hold a NUL byte")
        if not argument.isascii() and _is_broken(argument):
            raise UsageError(f"argument {number} is not UTF-8 text")
        if len(argument.encode()) >= _STRING_LIMIT:
            raise UsageError(f"argument {number}: longer than the 128 KiB that Linux lets a program have; use stdin")


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def become(asked: bool, user: str, password: str) -> tuple[str | None, str | None]:
    """The user to become and the name of the password's secret; raises `UsageError` where they are given without `become`."""
    if not asked and user not in {"", "root"}:
        raise UsageError(f"become_user {user!r} is given, but not become")
    return (user or "root") if asked else None, password or None


def either(command: str, script: str) -> str:
    """The one of the two that is given; raises `UsageError` where it is both."""
    if command and script:
        raise UsageError("give either a command or a script")
    return command or script


def describe(command: Command) -> str:
    """A command in one line: its text as JSON; of a script file only what reads it."""
    if not command.interpreter:
        return json.dumps(command.script)
    arguments = f" with {json.dumps(command.arguments)}" if command.arguments else ""
    return f"a script of {len(command.script.encode(errors='replace'))} bytes for {' '.join(command.interpreter)}{arguments}"


def check_limits(forks: int, connect_timeout: float) -> None:
    """Raise `UsageError` unless these limits make sense."""
    if forks < 1:
        raise UsageError(f"forks {forks}: give at least 1")
    check_seconds("connect_timeout", connect_timeout)


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise `UsageError` unless this is no limit at all, or a number of seconds over 0."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"{name} {seconds:g}: give a number of seconds over 0")
