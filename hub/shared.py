"""A question that takes long, asked by many: one thread asks at a time, and all share the answer."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """An answer that is good for `fresh` seconds, an error too. Belongs to one event loop."""

    def __init__(self, ask: Callable[[], T], fresh: float) -> None:
        self._ask = ask
        self._fresh = fresh
        self._asked: asyncio.Task[T] | None = None
        self._stale_at = 0.0

    async def get(self, seconds: float) -> T:
        """The answer; raises `TimeoutError` where none came within so many seconds, and whatever the asking raised."""
        if self._asked is None or (self._asked.done() and time.monotonic() > self._stale_at):
            self._asked = asyncio.create_task(asyncio.to_thread(self._ask))
            self._asked.add_done_callback(self._answered)
        return await asyncio.wait_for(asyncio.shield(self._asked), seconds)

    def _answered(self, asked: "asyncio.Task[T]") -> None:
        self._stale_at = time.monotonic() + self._fresh
        if not asked.cancelled():
            asked.exception()  # whoever asked may have gone away
