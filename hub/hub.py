"""The hub: reads what workers want, keeps the agents' lines, and writes what agents report."""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hub.enlister import Enlister
from hub.lines import Line, Lines, Telling
from hub.metrics import Metrics
from hub.wire import Answer
from hub.writer import Writer
from models import bells
from models.access import Access
from models.agents import Agents
from models.errors import FleetflowError
from models.exchange import Exchange, Order
from models.presence import OFFLINE_AFTER
from models.ranges import fold
from models.sealing import Seal
from models.settings import Settings
from models.states import DeliveryState

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between looks into the database that nobody rang for
_REST = 0.005  # seconds between two looks at least; and twice as long as the last one took, so that much comes in large groups
_COMPANY = 0.05  # seconds in which those come together who want a look: strangers may ask often
_LATER = 1.0  # seconds until what can wait is done for many at once: closed deliveries removed, agents told to forget
_SAW = 10.0  # seconds between the writing down of who was seen, at most
_SAW_AT_ONCE = 100
_SWEEP = 10.0  # seconds
_NAMES = 1000  # characters of a line that names agents
_BODIES = 64 * 1024 * 1024  # bytes of commands that are kept for their next hosts,
_BODY_KEPT = 30.0  # and for so many seconds: each run has its own, and the next host comes soon or never


class Hub:
    """One hub on one database. Belongs to one event loop."""

    def __init__(self, settings: Settings, access: Access) -> None:
        seal = Seal(settings.home)
        self._home: Path = settings.home
        self._exchange = Exchange(access, seal.close, seal.open)
        self._output_limit = settings.output_limit
        self._saw_every = min(_SAW, settings.lost_after / 3)
        self._bodies: dict[uuid.UUID, bytes] = {}
        self._read: deque[tuple[float, uuid.UUID]] = deque()  # when each of them was
        self._size = 0
        self._closed: list[Order] = []
        self._ordered_at = 0.0
        self._rung = asyncio.Event()
        self._looking, self._fetching = asyncio.Lock(), asyncio.Lock()
        self._looked_at = time.monotonic()
        self.metrics = Metrics()
        self._wanted: asyncio.Future[None] | None = None  # a look that has not begun
        self.lines = Lines()
        self.agents = Agents(access)
        self.writer = Writer(self._exchange, lambda: bells.ring(self._home, bells.Kind.WORKER), self.metrics)
        self.enlister = Enlister(settings.home, settings.ssh_config.expanduser())
        self.is_closing = False
        self.is_crowded: Callable[[], bool] = lambda: False  # hardly another connection can be opened

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the database until the end of the block."""
        with bells.answered(self._home, bells.Kind.HUB, self._rung.set):
            await self._look()
            self.enlister.catch_up(self.lines.agents())
            loops = [
                asyncio.create_task(work)
                for work in (
                    self._follow(),
                    self._every(_LATER, self._tidy),
                    self._every(self._saw_every, self._write_seen),
                    self._every(_SWEEP, self._sweep),
                )
            ]
            try:
                yield
            finally:
                self.close_lines()
                for task in loops:
                    task.cancel()
                await asyncio.wait(loops)
                await self.writer.aclose()
                await asyncio.to_thread(self.enlister.close)

    @property
    def behind(self) -> float:
        """Seconds since the last look into the database."""
        return time.monotonic() - self._looked_at

    def close_lines(self) -> None:
        """Answer every poll that waits: agents come to the next hub."""
        self.is_closing = True
        self.lines.wake_all()

    async def learn(self, agent: uuid.UUID) -> None:
        """Read the database until this agent is known, whom it has."""
        if self.lines.find(agent) is None:
            await self._look(unless=agent)

    async def look(self) -> None:
        """Read what is new, by a look that begins from now on; all who want one at the same time share it."""
        if self._wanted is None:
            self._wanted = asyncio.ensure_future(self._look_for_all())
        await asyncio.shield(self._wanted)

    async def _look_for_all(self) -> None:
        await asyncio.sleep(_COMPANY)
        self._wanted = None
        await self._look()

    async def fill(self, line: Line, answer: Answer, *, is_poll: bool) -> None:
        """Put into an answer what its agent is to be told."""
        for _, todo in list(line.due(time.monotonic())):
            if todo.telling is Telling.COMMAND and todo.body not in self._bodies:
                await self._fetch(todo.body)
        line.fill(answer, self._bodies, time.monotonic(), is_poll=is_poll)

    async def _fetch(self, name: uuid.UUID) -> None:
        """Read a command, once for all the agents that want it at the same moment."""
        async with self._fetching:
            if name not in self._bodies and (body := await asyncio.to_thread(self._exchange.body, name)):
                self._keep(name, body)

    def _keep(self, name: uuid.UUID, body: bytes) -> None:
        self._bodies[name] = body
        self._size += len(body)
        self._read.append((time.monotonic(), name))
        while self._size > _BODIES and len(self._bodies) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._size -= len(self._bodies.pop(self._read.popleft()[1]))

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK):
                    await self._rung.wait()
            except TimeoutError:
                pass
            self._rung.clear()
            began = time.monotonic()
            await self._carefully(self._look)
            await asyncio.sleep(max(_REST, 2 * (time.monotonic() - began)))

    async def _look(self, unless: uuid.UUID | None = None) -> None:
        """Read what is new, unless it was this agent and is known by now."""
        async with self._looking:
            if unless is not None and self.lines.find(unless) is not None:
                return
            agents, orders = await asyncio.to_thread(self._exchange.changes)
            self.lines.decide(agents)
            self.lines.order(orders)
            self._looked_at = time.monotonic()
        if any(order.state is not DeliveryState.CLOSED for order in orders):
            self._ordered_at = time.monotonic()
        self._closed += [order for order in orders if order.state is DeliveryState.CLOSED]

    async def _tidy(self) -> None:
        now = time.monotonic()
        if now > self._ordered_at + _LATER:  # first what is urgent: no poll is held for longer than half a minute anyway
            self.lines.remind()
        while self._read and self._read[0][0] < now - _BODY_KEPT:
            self._drop_oldest()
        closed, self._closed = self._closed, []
        if closed:
            await asyncio.to_thread(self._exchange.remove, closed)

    async def _write_seen(self) -> None:
        seen = self.lines.seen(time.monotonic() - self._saw_every - 1)
        for start in range(0, len(seen), _SAW_AT_ONCE):  # thousands at once would keep every agent waiting
            await asyncio.to_thread(self._exchange.saw, seen[start : start + _SAW_AT_ONCE])
            await asyncio.sleep(_REST)
        came, silent = self.lines.turned(time.monotonic(), OFFLINE_AFTER)
        if came or silent:
            await asyncio.to_thread(self._turn, came, silent)

    def _turn(self, came: list[uuid.UUID], silent: list[uuid.UUID]) -> None:
        here, gone = self._exchange.turn(came, silent, OFFLINE_AFTER)
        for names, what in ((here, "online"), (gone, f"offline, not heard of for {OFFLINE_AFTER:g} s")):
            if names:
                log.info("agents %s: %s", what, fold(names)[:_NAMES])

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._exchange.sweep)
        more = True
        while more:
            more = await asyncio.to_thread(self._exchange.correct, self._output_limit)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._carefully(work)

    async def _carefully(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except FleetflowError as error:
            log.warning("the database does not answer: %s", error)
        except Exception:
            log.exception("the hub goes on after an error")
