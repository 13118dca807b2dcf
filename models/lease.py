"""A worker's lease on its own life, renewed by a thread of its own: a busy event loop must not look like a death."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from models.errors import LeaseLostError, UnavailableError
from models.store import Store

log = logging.getLogger(__name__)

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # never steps, and counts what the machine slept
_LOOK = 0.05  # seconds between looks of those who wait for the next renewal


class Lease:
    """Lives until it is closed, or until somebody else has taken this worker for dead."""

    def __init__(self, store: Store, owner: str, seconds: float) -> None:
        self._store = store
        self._owner = owner
        self._seconds = seconds
        self._lost = False
        self._on_lost: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sure_until = time.clock_gettime(_CLOCK) + seconds
        store.take_lease(owner, seconds)
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        return self._lost

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Call back, from the lease's thread, once this worker has been taken for dead; at once when it has been."""
        with self._lock:
            self._on_lost.append(callback)
            lost = self._lost
        if lost:
            callback()

    async def confirm(self) -> None:
        """Return when it is certain that nobody has taken this worker for dead; raises `LeaseLostError`.

        What the database does not guard, such as a state in Prefect, is written only after this: a worker that slept
        through its lease waits here for its next renewal.
        """
        while not self._lost:
            if time.clock_gettime(_CLOCK) < self._sure_until:
                return
            await asyncio.sleep(_LOOK)
        raise LeaseLostError(self._owner)

    def close(self) -> None:
        """Say that this worker has ended, as far as the database can be told."""
        self._closing.set()
        self._thread.join()
        try:
            self._store.leave(self._owner)
        except UnavailableError as error:
            log.warning("cannot say that this worker ends, so others wait for its lease: %s", error)

    def _work(self) -> None:
        while not self._closing.wait(self._seconds / 3):
            began = time.clock_gettime(_CLOCK)
            try:
                lives = self._store.renew_lease(self._owner, self._seconds)
            except UnavailableError as error:
                log.warning("cannot renew this worker's lease: %s", error)
                continue
            if not lives:
                self._lose()
                return
            self._sure_until = began + self._seconds

    def _lose(self) -> None:
        with self._lock:
            self._lost = True
            callbacks = list(self._on_lost)
        for callback in callbacks:
            callback()
