"""Processes told apart for good: a process id is given again, together with its start it is not."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

_STATE, _SESSION, _START = 0, 3, 19  # fields of /proc/PID/stat after the name (proc_pid_stat(5))


@dataclass(frozen=True)
class Process:
    """A process that ran, and perhaps still does."""

    pid: int
    started: str  # boot id and clock ticks since boot

    @classmethod
    def current(cls) -> Self:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Self:
        fields = _stat(pid)
        return cls(pid, f"{_boot_id()}:{fields[_START]}" if fields else "gone")

    def is_alive(self) -> bool:
        fields = _stat(self.pid)
        return fields is not None and fields[_STATE] not in {"Z", "X"} and f"{_boot_id()}:{fields[_START]}" == self.started

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether the process ends within `seconds`."""
        return wait_all([self], seconds)


def wait_all(processes: Iterable[Process], seconds: float) -> bool:
    """Whether all processes end within `seconds`."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left := [process for process in left if process.is_alive()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def of_session(session: int) -> Iterator[Process]:
    """All living processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and int(fields[_SESSION]) == session and fields[_STATE] != "Z":
            yield Process(int(entry.name), f"{_boot_id()}:{fields[_START]}")


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
