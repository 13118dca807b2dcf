"""What `fleetflow run` is given to run: a command in one word, or a script file and its arguments."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.errors import UsageError

_PARAMETERS = 500 * 1024  # bytes of JSON; Prefect takes 512 KiB


def read_words(words: Sequence[str], script: str | None, *, is_stdin_taken: bool) -> tuple[str, tuple[str, ...]]:
    """The text to run and the arguments of a script; raises `UsageError`."""
    if script is not None:
        if script == "-" and is_stdin_taken:
            raise UsageError("--script - and --stdin - both read our input; give one of them a file")
        return _read(script), tuple(words)
    if not words:
        raise UsageError("give a command in quotes, or --script FILE")
    if len(words) > 1:
        raise UsageError(f"unexpected {words[1]!r}: give the command as one word, in quotes")
    return words[0], ()


def _read(script: str) -> str:
    try:
        data = sys.stdin.buffer.read(_PARAMETERS + 1) if script == "-" else Path(script).read_bytes()
    except OSError as error:
        raise UsageError(f"--script {script}: {error.strerror}") from None
    if len(data) > _PARAMETERS:
        raise UsageError(
            f"--script {script}: {len(data)} bytes; a task carries at most {_PARAMETERS}, bring larger files to the hosts first"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--script {script}: byte {error.start} is not UTF-8; a script is text, bring programs to the hosts first"
        ) from None


def name(script: str | None) -> str | None:
    """What a script is called in lists."""
    return None if script in {None, "-"} else Path(str(script)).name.encode(errors="replace").decode()


def check_size(parameters: Mapping[str, object]) -> None:
    """Raise `UsageError` unless Prefect takes these parameters."""
    size = len(json.dumps(parameters))
    if size > _PARAMETERS:
        raise UsageError(
            f"script, stdin and arguments make {size} bytes; a task carries at most {_PARAMETERS}: bring larger files to the hosts first"
        )
