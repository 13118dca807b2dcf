"""What this hub knows of each agent: who it is, what it is still to be told, and the poll that waits for that.

Nothing here is worth keeping: a hub that starts reads it all from the database, and asks each agent what it knows.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hub.wire import BODY_LIMIT, Answer, Sync, command
from models.agents import Agent
from models.exchange import Order, Seen
from models.reports import Receipt, Report
from models.states import AgentState, DeliveryState

_REPEAT = 5.0  # seconds after which an agent is told again what it has not answered
_FORMER = 8  # sessions that an agent is remembered to have had before


class Telling(StrEnum):
    """What an agent is to be told of an attempt."""

    COMMAND = "command"
    GO = "go"
    CANCEL = "cancel"
    FORGET = "forget"


_TELLING = {DeliveryState.QUEUED: Telling.COMMAND, DeliveryState.GO: Telling.GO, DeliveryState.CLOSED: Telling.FORGET}


@dataclass(slots=True)
class _Todo:
    telling: Telling
    body: uuid.UUID
    told_at: float = 0.0


@dataclass(eq=False, slots=True)
class Line:
    """One agent."""

    agent: Agent
    session: str = ""
    boot: str = ""
    version: str = ""
    free: int = 0
    heard_at: float = 0.0
    telemetry: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] | None = None
    todo: dict[uuid.UUID, _Todo] = field(default_factory=dict)
    forgotten: list[uuid.UUID] = field(default_factory=list)  # told in the last answer, which may not have arrived
    former: deque[str] = field(default_factory=lambda: deque(maxlen=_FORMER))
    waiting: asyncio.Future[None] | None = None

    def hear(self, sync: Sync, now: float) -> None:
        """Take in who speaks, and how it is."""
        self.boot, self.version, self.free, self.heard_at = sync.boot, sync.version, sync.free, now
        self.telemetry = sync.telemetry or self.telemetry
        self.facts = sync.facts or self.facts
        if sync.session != self.session and sync.report.known is not None:
            if self.session:
                self.former.append(self.session)
            self.session = sync.session
            self._tell_again()
        if sync.again:
            self._tell_again()
            self.todo.update({attempt: _Todo(Telling.FORGET, attempt) for attempt in self.forgotten})
        self.forgotten.clear()

    def is_stranger(self, sync: Sync) -> bool:
        """Whether this session must say first what it knows."""
        return sync.session != self.session

    def order(self, order: Order) -> None:
        """Have the agent told what a worker wants."""
        telling = Telling.CANCEL if order.canceled and order.state is not DeliveryState.CLOSED else _TELLING[order.state]
        known = self.todo.get(order.attempt)
        if known is None or known.telling is not telling:
            self.todo[order.attempt] = _Todo(telling, order.body)
            self.wake()

    def heed(self, report: Report, receipt: Receipt) -> None:
        """Take in what the agent has shown to have heard."""
        settled = [(report.held, {Telling.COMMAND}), (report.accepted, {Telling.COMMAND, Telling.GO})]
        settled.append(([one.attempt for one in report.refused], {Telling.COMMAND, Telling.GO, Telling.CANCEL}))
        noted = set(receipt.noted)
        settled.append(([one.attempt for one in report.done if one.attempt in noted], {Telling.COMMAND, Telling.GO, Telling.CANCEL}))
        for attempts, tellings in settled:
            for attempt in attempts:
                if (todo := self.todo.get(attempt)) and todo.telling in tellings:
                    del self.todo[attempt]
        if receipt.again:
            self._tell_again()

    def due(self, now: float) -> Iterator[tuple[uuid.UUID, _Todo]]:
        """What is to be told now, in the order of the deliveries; no more commands than the agent can take."""
        free = self.free
        for attempt, todo in self.todo.items():
            if todo.told_at + _REPEAT > now:
                continue
            if todo.telling is Telling.COMMAND:
                if free < 1:
                    continue
                free -= 1
            yield attempt, todo

    def fill(self, answer: Answer, bodies: Mapping[uuid.UUID, bytes], now: float) -> None:
        """Put into an answer what is due; commands whose body is not in `bodies` come the next time."""
        size = 0
        for attempt, todo in list(self.due(now)):
            match todo.telling:
                case Telling.COMMAND:
                    body = bodies.get(todo.body)
                    if body is None or (size and size + len(body) > BODY_LIMIT):
                        continue
                    size += len(body)
                    answer.commands.append(command(attempt, body))
                    self.free -= 1
                case Telling.GO:
                    answer.go.append(attempt)
                case Telling.CANCEL:
                    answer.cancels.append(attempt)
                case Telling.FORGET:
                    answer.acks.append(attempt)
                    self.forgotten.append(attempt)
                    del self.todo[attempt]
            todo.told_at = now

    def has_unanswered(self) -> bool:
        """Whether something was told that the agent has not answered."""
        return any(todo.told_at for todo in self.todo.values())

    def wake(self) -> None:
        """Answer the poll that waits."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Hold a poll, until there is something to say, a newer poll comes, or the time is over."""
        self.wake()
        mine = self.waiting = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(mine, min(seconds, _REPEAT) if self.has_unanswered() else seconds)
        except TimeoutError:
            pass
        finally:
            if self.waiting is mine:
                self.waiting = None

    def _tell_again(self) -> None:
        for todo in self.todo.values():
            todo.told_at = 0.0


class Lines:
    """All agents."""

    def __init__(self) -> None:
        self._lines: dict[uuid.UUID, Line] = {}
        self.pending = 0

    @property
    def polls(self) -> int:
        """How many are held now."""
        return sum(line.waiting is not None for line in self._lines.values())

    def find(self, agent: uuid.UUID) -> Line | None:
        return self._lines.get(agent)

    def decide(self, agents: Iterable[Agent]) -> None:
        """Take in what was decided about agents; the poll of one that was revoked is answered at once."""
        for agent in agents:
            line = self._lines.setdefault(agent.id, Line(agent))
            self.pending += (agent.state is AgentState.PENDING) - (line.agent.state is AgentState.PENDING and line.agent is not agent)
            line.agent = agent
            line.wake()

    def order(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if line := self._lines.get(order.agent):
                line.order(order)

    def seen(self, since: float) -> list[Seen]:
        """The agents that were heard of since then, a time of the monotonic clock."""
        now = time.monotonic()
        found = []
        for line in self._lines.values():
            if line.heard_at >= since and line.version:
                found.append(Seen(line.agent.id, now - line.heard_at, line.boot, line.version, line.telemetry, line.facts))
                line.facts = None
        return found

    def wake_all(self) -> None:
        for line in self._lines.values():
            line.wake()
