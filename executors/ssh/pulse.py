"""The one thread that sends beats and keep-alives on all connections."""

import logging
import threading
from collections import deque
from concurrent.futures import wait
from functools import partial
from math import inf

from executors.ssh.connection import Connection
from executors.ssh.threads import Threads

_log = logging.getLogger(__name__)
_STUCK_SECONDS = 1.0  # a round that takes longer goes on without the connection that holds it up


class Pulse:
    """Calls `pulse` of every connection each `interval` seconds."""

    def __init__(self, threads: Threads, interval: float) -> None:
        self._threads = threads
        self._interval = interval
        self._connections: set[Connection] = set()
        self._stuck: set[Connection] = set()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, connection: Connection, within: float = inf) -> None:
        """Beat on a connection too; all connections are beaten on as often as the one that needs it most, each `within` seconds."""
        self._interval = min(self._interval, within)
        self._connections.add(connection)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ssh-pulse", daemon=True)
            self._thread.start()

    def discard(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            waiting = deque(self._connections.copy() - self._stuck)
            while waiting:
                # Each round runs on another thread, so that a send that blocks after all can be left behind.
                wait([self._threads.start(partial(self._round, waiting))], timeout=_STUCK_SECONDS)

    def _round(self, waiting: "deque[Connection]") -> None:
        while waiting and not self._closed.is_set():
            connection = waiting.popleft()
            self._stuck.add(connection)
            try:
                connection.pulse()
            except Exception:  # noqa: BLE001 - the others still need theirs
                _log.exception("no pulse on %r", connection.transport)
            finally:
                self._stuck.discard(connection)
