"""All that this process has under way through agents: one thread writes and reads the bus for every attempt.

What attempts ask for goes into the database in groups, as soon as the thread is free. What hubs have written is read by one query for
all attempts: at once when a hub rings, and twice a second anyway.
"""

import asyncio
import logging
import queue
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from models import bells
from models.access import Access
from models.deliveries import Adopt, Deliveries, Print, Request, Status
from models.groups import patiently, resolve
from models.sealing import Seal
from models.states import DeliveryState
from models.values import STREAMS, Stream

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between looks that nobody rang for
_REST = 0.01  # seconds between two looks at least: what many agents report comes in groups
_GROUP = 1000  # requests of one transaction
_PATIENCE = 60.0  # seconds that a locked or full database is tried again
_HAND_OVER = 10.0  # seconds that the event loop has to take what was read, before more is read
_ROLL_CALL = 5.0  # seconds between looks for agents that nobody sees any more, at most


@dataclass(eq=False)
class Delivery:
    """One attempt under way. Belongs to one event loop; `news` is set when something has come."""

    attempt: uuid.UUID
    output: Callable[[Stream, bytes], None]
    left_out: Callable[[Stream, int], None]
    offsets: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))  # bytes up to which output was passed on
    status: Status | None = None
    unseen: str | None = None  # why nothing more is to be expected
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> DeliveryState:
        return self.status.state if self.status else DeliveryState.QUEUED

    @property
    def is_complete(self) -> bool:
        """Whether all output has been passed on that belongs to the status."""
        return self.status is not None and all(self.offsets[stream] >= size for stream, size in self.status.sizes.items())

    def take(self, stream: Stream, offset: int, data: bytes) -> None:
        """Pass a piece on, but for what has been."""
        here = self.offsets[stream]
        if offset + len(data) <= here:
            return
        if offset > here:
            self.left_out(stream, offset - here)
        if data:
            self.output(stream, data[max(0, here - offset) :])
        self.offsets[stream] = offset + len(data)


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request
    delivery: Delivery | None
    answer: asyncio.Future[bool]


class Mailbox:
    """Deliveries to agents, and what comes back. Opened at its first use."""

    def __init__(self, access: Access, owner: str, home: Path, *, lost_after: float) -> None:
        self._access = access
        self._owner = owner
        self._home = home
        self._lost_after = lost_after
        self._under_way: dict[uuid.UUID, Delivery] = {}
        self._queue: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.seal = Seal(home)

    def add(self, delivery: Delivery) -> None:
        """Have news of this attempt from now on."""
        self._under_way[delivery.attempt] = delivery

    def drop(self, delivery: Delivery) -> None:
        """No more news of this attempt."""
        self._under_way.pop(delivery.attempt, None)

    async def ask(self, request: Request, delivery: Delivery | None = None) -> bool:
        """Carry out a request; returns its answer once it is committed. An adopted attempt's output comes to its delivery before."""
        return await self.send(request, delivery)

    def send(self, request: Request, delivery: Delivery | None = None) -> asyncio.Future[bool]:
        """Have a request carried out, whether somebody waits for it or not."""
        self._open()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put(_Asked(request, delivery, answer))
        if self._queue.qsize() <= 1:  # else the thread has been woken, and has not come so far
            self._wake()
        return answer

    async def aclose(self) -> None:
        """Carry out what was asked for, and stop."""
        self._closing = True
        self._wake()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._wake_in.close()
        self._wake_out.close()

    def _open(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="mailbox", daemon=True)
            self._thread.start()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it has been woken already
            self._wake_out.send(b"!")

    # In the thread

    def _work(self) -> None:
        with bells.listen(self._home, bells.Kind.WORKER) as bell:
            self._serve(Deliveries(self._access, self._owner), bell)

    def _serve(self, deliveries: Deliveries, bell: socket.socket) -> None:
        called = looked = 0.0
        while True:
            group = list(self._next_group())
            if group:
                self._carry_out(deliveries, group)
            elif self._closing:
                return
            time.sleep(max(0.0, looked + _REST - time.monotonic()))
            looked = time.monotonic()
            try:
                more = self._look(deliveries)
                if looked - called > min(_ROLL_CALL, self._lost_after / 3):
                    self._call_roll(deliveries)
                    called = looked
            except Exception:  # whatever it is, it must not be the last look
                log.exception("cannot read what agents report")
                more = False
            if not (more or self._closing) and self._queue.empty():
                self._wait(bell)

    def _wait(self, bell: socket.socket) -> None:
        select.select([bell, self._wake_in], [], [], _LOOK if self._under_way else None)
        bells.heard(bell)
        with suppress(BlockingIOError):
            self._wake_in.recv(4096, socket.MSG_DONTWAIT)

    def _next_group(self) -> Iterator[_Asked]:
        with suppress(queue.Empty):
            for _ in range(_GROUP):
                yield self._queue.get_nowait()

    def _carry_out(self, deliveries: Deliveries, group: list[_Asked]) -> None:
        try:
            answers: list[bool | Exception] = list(patiently(lambda: deliveries.apply([asked.request for asked in group]), _PATIENCE))
            for asked, answer in zip(group, answers, strict=True):
                if isinstance(asked.request, Adopt) and answer and asked.delivery is not None:
                    self._catch_up(deliveries, asked.delivery)
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting attempt must hear of it
            answers = [error] * len(group)
        else:
            bells.ring(self._home, bells.Kind.HUB)
        self._hand_over(lambda: resolve(zip((asked.answer for asked in group), answers, strict=True)))

    def _catch_up(self, deliveries: Deliveries, delivery: Delivery) -> None:
        """Pass on what a dead worker's attempt has printed beyond what that worker stored."""
        offsets = dict(delivery.offsets)
        while fresh := [one for one in self._opened(deliveries.printed(delivery.attempt, offsets)) if one.end > offsets[one.stream]]:
            for one in fresh:
                offsets[one.stream] = max(offsets[one.stream], one.end)
            self._hand_over(partial(self._deliver, fresh, ()))

    def _look(self, deliveries: Deliveries) -> bool:
        """Pass on what is new; whether there is more at once."""
        found = deliveries.news()
        if found.prints or found.statuses:
            self._hand_over(partial(self._deliver, self._opened(found.prints), found.statuses))
        return found.more

    def _opened(self, prints: Sequence[Print]) -> list[Print]:
        return [replace(one, data=self.seal.open(one.data)) if one.sealed else one for one in prints if one.attempt in self._under_way]

    def _call_roll(self, deliveries: Deliveries) -> None:
        unseen = deliveries.unseen(self._lost_after) if self._under_way else {}
        if unseen:
            self._hand_over(partial(self._give_up, unseen))

    def _hand_over(self, call: Callable[[], None]) -> None:
        """Do this in the loop, and wait for it: what is read no faster than it is passed on cannot pile up."""
        assert self._loop is not None  # noqa: S101 - set before the thread starts; for mypy
        done = threading.Event()

        def carry_out() -> None:
            try:
                call()
            finally:
                done.set()

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(carry_out)
            done.wait(_HAND_OVER)

    # In the loop

    def _deliver(self, prints: Sequence[Print], statuses: Sequence[Status]) -> None:
        for one in prints:
            if delivery := self._under_way.get(one.attempt):
                delivery.take(one.stream, one.offset, one.data)
                delivery.news.set()
        for status in statuses:
            if delivery := self._under_way.get(status.attempt):
                delivery.status = status
                delivery.news.set()

    def _give_up(self, unseen: Mapping[uuid.UUID, str]) -> None:
        for attempt, why in unseen.items():
            if delivery := self._under_way.get(attempt):
                delivery.unseen = why
                delivery.news.set()
