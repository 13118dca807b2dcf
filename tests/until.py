"""Waits for something to become true, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(holds: Callable[[], T], seconds: float = 10, what: str = "", *, every: float = 0.02) -> T:
    """The first true value of `holds`, asked `every` so many seconds; fails when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what or holds}")
        time.sleep(every)
    return value
