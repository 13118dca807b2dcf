"""Logs of bounded size: when a file is full it becomes NAME.1, and the NAME.1 before it is gone."""

import sys
import threading
from collections.abc import Iterable
from pathlib import Path

LIMIT = 5 * 1024 * 1024  # bytes of each of the two files


class BoundedLog:
    """A log that many threads may write to. What cannot be written (a full disk) is dropped: a log must not stop the stack."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        with self._lock:
            try:
                if self._file.tell() + len(data) > self._limit:
                    self._turn_over()
                self._file.write(data)
            except OSError:
                return

    def _turn_over(self) -> None:
        self._file.close()
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()


def follow(name: str, lines: Iterable[bytes], log: BoundedLog, last: "LastLine", *, echo: bool) -> threading.Thread:
    """Carry the lines of a child into its log, and to our own output for `echo`, until the child closes its end."""
    thread = threading.Thread(target=_carry, args=(name, lines, log, last, echo), name=f"log of {name}", daemon=True)
    thread.start()
    return thread


class LastLine:
    """The last line that a child wrote: why it died, more often than not."""

    text = ""


def _carry(name: str, lines: Iterable[bytes], log: BoundedLog, last: LastLine, echo: bool) -> None:
    for line in lines:
        log.write(line)
        text = line.decode(errors="backslashreplace").rstrip()
        last.text = text or last.text
        if echo:
            print(f"{name} | {text}", file=sys.stdout, flush=True)  # noqa: T201 - `up` in the foreground shows its children
