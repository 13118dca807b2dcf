"""A cap on the handshakes that keep the processor busy at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """At most `count` at work at once; who takes longer than `patience` seconds is waiting for its host and gives its place up.

    Without that, `count` hosts that went silent would hold up all the others.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._free = asyncio.Semaphore(count)
        self._patience = patience

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        await self._free.acquire()
        place = _Place(self._free)
        timer = asyncio.get_running_loop().call_later(self._patience, place.leave)
        try:
            yield
        finally:
            timer.cancel()
            place.leave()


class _Place:
    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free

    def leave(self) -> None:
        free, self._free = self._free, None
        if free is not None:
            free.release()
