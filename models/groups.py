"""What threads that write in groups have in common: they are patient with the database, and answer all who wait at once."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from models.errors import UnavailableError

T = TypeVar("T")


def patiently(write: Callable[[], T], seconds: float) -> T:
    """Write, again for so many seconds while the database is locked or full; raises `UnavailableError`."""
    give_up = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return write()
        except UnavailableError:
            if time.monotonic() > give_up:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def answer(waiting: Iterable[tuple["asyncio.Future[T]", T | Exception]]) -> None:
    """Tell each who waits its result or its error, with one call for each event loop. Any thread."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[T], T | Exception]]] = defaultdict(list)
    for done, result in waiting:
        loops[done.get_loop()].append((done, result))
    for loop, pairs in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(resolve, pairs)


def resolve(waiting: Iterable[tuple["asyncio.Future[T]", T | Exception]]) -> None:
    """The same, in the event loop of all of them."""
    for done, result in waiting:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
            done.exception()  # who asked may have gone away
        else:
            done.set_result(result)
