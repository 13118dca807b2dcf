"""The connections that nobody uses at the moment, the least recently used first."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from executors.ssh.connection import Connection


class Idle:
    """Ends connections that are unused for `seconds`, or when there are too many. No step looks at more than it ends."""

    def __init__(self, seconds: float, end: Callable[[Connection], None]) -> None:
        self._seconds = seconds
        self._end = end
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        self._waiting[connection] = None
        self._waiting.move_to_end(connection)
        self._come_again()

    def discard(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def trim(self, surplus: int) -> None:
        """End as many as there are too many, if there are so many idle ones."""
        while surplus > 0 and self._waiting and (oldest := next(iter(self._waiting))).is_spare:
            self._end(oldest)
            surplus -= 1

    def close(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _come_again(self) -> None:
        if self._timer is None and self._waiting:
            oldest = next(iter(self._waiting))
            delay = oldest.idle_since + self._seconds - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.05, delay), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        cutoff = time.monotonic() - self._seconds
        while self._waiting and (oldest := next(iter(self._waiting))).idle_since <= cutoff:
            self._end(oldest)
        self._come_again()
