"""Threads for blocking steps: one a step under way, used again, and none of them holds up the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[Callable[[], Any], "Future[Any]"]


class Threads:
    """Runs each job in a daemon thread of its own: a job that never returns costs one thread, and delays nobody."""

    def __init__(self, name: str, idle: float = 5.0) -> None:
        self._name = name
        self._idle_seconds = idle
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._closed = False

    async def run(self, work: Callable[[], _T]) -> _T:
        """The result of `work`; a cancel leaves the thread to itself, so the caller must make `work` return."""
        return await asyncio.wrap_future(self.start(work))

    def start(self, work: Callable[[], _T]) -> "Future[_T]":
        """Start `work` at once, on an idle thread if there is one."""
        future: Future[_T] = Future()
        with self._lock:
            queue = self._idle.pop() if self._idle else None
        if queue is not None:
            queue.put((work, future))
        else:
            threading.Thread(target=self._serve, args=((work, future),), name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Let go of all threads; those still at work end after their job."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for queue in idle:
            queue.put(None)

    def _serve(self, first: _Job) -> None:
        queue: SimpleQueue[_Job | None] = SimpleQueue()
        job: _Job | None = first
        while job is not None:
            _do(*job)
            job = self._next(queue)

    def _next(self, queue: "SimpleQueue[_Job | None]") -> _Job | None:
        with self._lock:
            if self._closed:
                return None
            self._idle.append(queue)
        try:
            return queue.get(timeout=self._idle_seconds)
        except Empty:
            return self._leave(queue)

    def _leave(self, queue: "SimpleQueue[_Job | None]") -> _Job | None:
        """The end of an idle thread, unless a job was handed to it in that very moment."""
        with self._lock:
            if queue in self._idle:
                self._idle.remove(queue)
                return None
        return queue.get()


def _do(work: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
        future.set_exception(error)
    else:
        future.set_result(result)
