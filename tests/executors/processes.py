"""Looks for processes in /proc. Tests look often, at all processes of the machine: plain calls, which cost a fifth of Path's."""

import os
from contextlib import suppress
from pathlib import Path

from models.values import Attempt


def is_alive(pid: int) -> bool:
    """Whether this process exists and is not a zombie."""
    return state(pid) not in {"Z", "X", ""}


def state(pid: int) -> str:
    """The state letter of proc(5); empty when there is no such process."""
    return _stat(pid)[0]


def marked(attempt: Attempt) -> list[int]:
    """The processes that belong to an attempt."""
    mark = f"FLEETFLOW_ATTEMPT={attempt.id}".encode()
    return [pid for pid in _pids() if mark in _environ(pid)]


def members(group: int) -> list[int]:
    """The processes of a group that are not zombies."""
    return [pid for pid in _pids() if _group(pid) == group and is_alive(pid)]


def children(parent: int) -> list[int]:
    """The processes that this one has started and that are not zombies."""
    return [pid for pid in _pids() if _stat(pid)[1:2] == [str(parent)] and is_alive(pid)]


def describe(pid: int) -> str:
    """What a process is, for messages."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid} {' '.join(_stat(pid)[:3])} {line[:60]}"
    return f"{pid} gone"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - as said above


def _group(pid: int) -> int:
    with suppress(OSError):
        return os.getpgid(pid)
    return -1


def _environ(pid: int) -> bytes:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - as said above
        return file.readall()
    return b""


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the state letter on."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - as said above
        return file.readall().decode(errors="replace").rpartition(") ")[2].split()
    return [""]
