"""How much slower than alone a machine is while something is waited for."""

import threading
import time
from types import TracebackType
from typing import Self

_WORK = 0.02  # seconds of processor time: several of the scheduler's slices, so that it waits as often as others do
_EVERY = 0.5  # seconds


class Pace:
    """Measures while it is entered: a thread does a little work now and then, and sees how long that takes."""

    def __init__(self) -> None:
        self._took = self._worked = _WORK
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="pace")

    @property
    def stretch(self) -> float:
        """How many seconds a second of work takes: 1 on a machine with a processor to spare."""
        return self._took / self._worked

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._stop.wait(_EVERY):
            began, worked = time.perf_counter(), time.thread_time()
            while time.thread_time() - worked < _WORK:
                pass
            self._took += time.perf_counter() - began
            self._worked += time.thread_time() - worked
