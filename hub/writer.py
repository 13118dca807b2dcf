"""Carries what agents report into the database, in groups: one thread commits whenever it is free."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hub.metrics import Metrics
from models.exchange import Exchange
from models.groups import answer, patiently
from models.reports import Receipt, Report

_GROUP = 500  # reports of one transaction
_BYTES = 4 * 1024 * 1024  # of output in one transaction: another writer waits for it
_WAITING = 64 * 1024 * 1024  # bytes of output that may wait here
_REST = 0.03  # seconds between two transactions at most, else twice as long as one takes: others come in between, and groups grow
_PATIENCE = 20.0  # seconds that a locked or full database is tried again; then the agents do


class CrowdedError(Exception):
    """More waits to be written than memory should hold."""


@dataclass(slots=True)
class _Pending:
    report: Report
    size: int
    done: asyncio.Future[Receipt]


class Writer:
    """Groups reports of many agents into few commits. `on_commit` is called, in the thread, after each."""

    def __init__(self, exchange: Exchange, on_commit: Callable[[], None], metrics: Metrics) -> None:
        self._exchange = exchange
        self._on_commit = on_commit
        self._metrics = metrics
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._waiting = 0
        self._left: _Pending | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    async def put(self, report: Report) -> Receipt:
        """Store a report; returns once it is committed. Raises `CrowdedError` and `UnavailableError`."""
        size = sum(len(piece.data) for piece in report.output)
        if self._waiting > _WAITING:
            raise CrowdedError
        self._waiting += size
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queue.put(_Pending(report, size, done))
        came_at = time.monotonic()
        try:
            receipt = await done
            self._metrics.report.observe(time.monotonic() - came_at)
            return receipt
        finally:
            self._waiting -= size

    async def aclose(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        closing = False
        while not closing or self._left is not None:
            group, closing = self._next_group(closing)
            if group:
                began = time.monotonic()
                self._commit(group)
                time.sleep(min(2 * (time.monotonic() - began), _REST))

    def _next_group(self, closing: bool) -> tuple[list[_Pending], bool]:
        group: list[_Pending] = []
        size = 0
        with suppress(queue.Empty):
            while len(group) < _GROUP:
                item = self._left or (self._queue.get_nowait() if group or closing else self._queue.get())
                self._left = None
                if item is None:
                    closing = True
                    continue
                if group and size + item.size > _BYTES:
                    self._left = item
                    break
                group.append(item)
                size += item.size
        return group, closing

    def _commit(self, group: Sequence[_Pending]) -> None:
        try:
            receipts: Sequence[Receipt | Exception] = patiently(lambda: self._take(group), _PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting agent must hear of it
            receipts = [error] * len(group)
        else:
            self._on_commit()
        answer(zip((pending.done for pending in group), receipts, strict=True))

    def _take(self, group: Sequence[_Pending]) -> list[Receipt]:
        with self._metrics.transaction.time():
            return self._exchange.take([pending.report for pending in group])
