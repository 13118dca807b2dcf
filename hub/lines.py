"""What this hub knows of each agent: who it is, what it is still to be told, and the poll that waits for that.

Nothing here is worth keeping: a hub that starts reads it all from the database, and asks each agent what it knows.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Any

from hub.wire import BODY_LIMIT, Answer, Sync, command
from models.agents import Agent
from models.exchange import Order, Seen
from models.reports import Receipt, Report
from models.states import AgentState, DeliveryState

_REPEAT = 20.0  # seconds after which an agent is told again what it has not answered; an answer that was lost it asks for much sooner
_APART = 0.1  # of a poll's time, by which it may end sooner: thousands that came together shall not come together for ever
_RANDOM = Random()  # noqa: S311 - what is spread by it is no secret
_FORMER = 8  # sessions that an agent is remembered to have had before
_ALIVE = 45.0  # seconds since it was heard in which a session may well be alive: a poll is held for 30
_SILENCE = 5.0  # seconds in which a session that lives answers, when its poll has been
_DOUBT = 60.0  # seconds that a doubt is remembered


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
    order: int = 0  # of the delivery
    due_at: float = 0.0


class Hold:
    """A place where an answer is held back; one that comes takes the place of the one before."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: asyncio.Future[bool] | None = None

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def end(self) -> bool:
        """Let the answer go; False when none was held."""
        return self._settle(is_wanted=True)

    def replace(self) -> None:
        """Let it go, to whom it may reach no more: somebody newer is to be told."""
        self._settle(is_wanted=False)

    async def wait(self, seconds: float) -> bool:
        """Hold an answer until somebody ends that, or its time is over; False when it has been replaced."""
        self.replace()
        loop = asyncio.get_running_loop()
        mine = self._held = loop.create_future()
        timer = loop.call_later(seconds, _resolve, mine, True)
        try:
            is_wanted: bool = await mine
            return is_wanted
        finally:
            timer.cancel()
            if self._held is mine:
                self._held = None

    def _settle(self, *, is_wanted: bool) -> bool:
        held, self._held = self._held, None
        if held is not None:
            _resolve(held, is_wanted)
        return held is not None


def _resolve(held: "asyncio.Future[bool]", is_wanted: bool) -> None:
    if not held.done():
        held.set_result(is_wanted)


class Whose(StrEnum):
    """Whose words a message is."""

    OWN = "own"
    LATE = "late"  # its own, with a credential that it has replaced meanwhile
    OTHER = "other"  # another process on the same machine, which has been replaced
    COPY = "copy"  # another machine
    DOUBT = "doubt"  # to be seen


@dataclass(eq=False, slots=True)
class Line:
    """One agent."""

    agent: Agent
    session: str = ""
    boot: str = ""
    version: str = ""
    free: int = 0
    heard_at: float = 0.0
    is_there: bool = False  # as far as this hub has noted
    missed_at: float = field(default_factory=time.monotonic)  # when it was last found silent
    telemetry: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] | None = None
    todo: dict[uuid.UUID, _Todo] = field(default_factory=dict)
    # Told to be forgotten in an answer that may not have arrived; True: the last one to a poll, else to a report.
    forgotten: dict[uuid.UUID, bool] = field(default_factory=dict)
    former: tuple[tuple[str, str], ...] = ()  # with their boots
    doubt: tuple[str, float] | None = None  # the session that may be a copy's, and since when
    poll: Hold = field(default_factory=Hold)
    report: Hold = field(default_factory=Hold)  # one that said `held`, until the word comes: it needs no answer to the poll then

    def hear(self, sync: Sync, now: float) -> None:
        """Take in who speaks, and how it is."""
        former = self.boot
        self.boot, self.version, self.free, self.heard_at = sync.boot, sync.version, sync.free, now
        self.telemetry = sync.telemetry or self.telemetry
        self.facts = sync.facts or self.facts
        if sync.session != self.session and sync.report.known is not None:
            if self.session:
                self.former = (*self.former, (self.session, former))[-_FORMER:]
            self.session = sync.session
            self.report.end()
            self._tell_again()
        told = [attempt for attempt, by_poll in self.forgotten.items() if by_poll is sync.is_poll]
        if sync.again:
            self._tell_again()
            self.todo.update({attempt: _Todo(Telling.FORGET, attempt) for attempt in told})
        for attempt in told:
            del self.forgotten[attempt]

    def is_stranger(self, sync: Sync) -> bool:
        """Whether this session must say first what it knows."""
        return sync.session != self.session

    def judge(self, sync: Sync, now: float, *, is_former: bool, held: Iterable[Agent]) -> Whose:
        """Whose words these are; `is_former` says that they came with a credential that was replaced, `held` are the known copies.

        Two machines of one identity are told apart by their machine-id, else by their boots: of a machine that was started anew, the
        session before is silent. One that is not was there first.
        """
        boot = dict(self.former).get(sync.session)
        if is_former:
            return Whose.LATE if boot is not None or sync.session == self.session else Whose.COPY
        if sync.session == self.session:
            return Whose.OWN
        if boot is not None:
            return Whose.OTHER if boot == self.boot else self._go_back(sync.session, boot)
        machine = sync.machine or self.agent.machine
        if machine != self.agent.machine or any((copy.machine, copy.boot) == (machine, sync.boot) for copy in held):
            return Whose.COPY
        if sync.report.known is None or not self.session or sync.boot == self.boot or now - self.heard_at > _ALIVE:
            return Whose.OWN
        return self._doubt(sync.session, now)

    def _go_back(self, session: str, boot: str) -> Whose:
        """The session that took over came later, from another machine: it will be held when it speaks again."""
        self.former = tuple(one for one in self.former if one[0] != session)
        self.session, self.boot = session, boot
        self._tell_again()
        return Whose.OWN

    def _doubt(self, session: str, now: float) -> Whose:
        """Have the session before say that it lives, by answering its poll; or take its silence for an answer."""
        if self.doubt is None or self.doubt[0] != session or now - self.doubt[1] > _DOUBT:
            self.doubt = session, now
            self.poll.end()
            return Whose.DOUBT
        if self.heard_at > self.doubt[1]:
            return Whose.COPY
        return Whose.DOUBT if now - self.doubt[1] < _SILENCE else Whose.OWN

    def renewed(self, digest: str) -> None:
        """The agent has used its next credential."""
        agent = self.agent
        if agent.next_digest == digest:
            self.agent = replace(
                agent, digest=digest, former_digest=agent.digest, next_digest=None, rotating=False, generation=agent.generation + 1
            )

    def order(self, order: Order) -> None:
        """Have the agent told what a worker wants."""
        telling = Telling.CANCEL if order.canceled and order.state is not DeliveryState.CLOSED else _TELLING[order.state]
        known = self.todo.get(order.attempt)
        if known is None or known.telling is not telling:
            self.todo[order.attempt] = _Todo(telling, order.body, order.id)
            if telling is Telling.FORGET:  # that can wait for the next answer
                self.report.end()
            else:
                self.wake()

    def heed(self, report: Report, receipt: Receipt) -> None:
        """Take in what the agent has shown to have heard."""
        settled = [(report.held, {Telling.COMMAND}), (report.accepted, {Telling.COMMAND, Telling.GO})]
        settled.append(([one.attempt for one in report.refused], {Telling.COMMAND, Telling.GO, Telling.CANCEL}))
        noted = set(receipt.noted)
        settled.append(([one.attempt for one in report.done if one.attempt in noted], {Telling.COMMAND, Telling.GO, Telling.CANCEL}))
        settled.append((receipt.forget, {Telling.FORGET}))  # the receipt says so itself
        for attempts, tellings in settled:
            for attempt in attempts:
                if (todo := self.todo.get(attempt)) and todo.telling in tellings:
                    del self.todo[attempt]
        if receipt.again:
            self._tell_again()

    def due(self, now: float) -> Iterator[tuple[uuid.UUID, _Todo]]:
        """What is to be told now, in the order of the deliveries; no more commands than the agent can take."""
        free = self.free
        if not self.todo:
            return
        for attempt, todo in sorted(self.todo.items(), key=lambda item: item[1].order):
            if todo.due_at > now:
                continue
            if todo.telling is Telling.COMMAND:
                if free < 1:
                    continue
                free -= 1
            yield attempt, todo

    def has_due(self, now: float) -> bool:
        return any(True for _ in self.due(now))

    def fill(self, answer: Answer, bodies: Mapping[uuid.UUID, bytes], now: float, *, is_poll: bool) -> None:
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
                    self.forgotten[attempt] = is_poll
                    del self.todo[attempt]
            todo.due_at = now + _REPEAT

    def wake(self) -> None:
        """Give the one answer that is held back."""
        if not self.report.end():
            self.poll.end()

    def wake_all(self) -> None:
        self.report.end()
        self.poll.end()

    async def hold_poll(self, seconds: float) -> bool:
        """Hold a poll, until there is something to say, or the time is over; False when a newer one has come."""
        unanswered = (todo.due_at for todo in self.todo.values() if todo.due_at)
        apart = seconds * (1 - _APART * _RANDOM.random())
        return await self.poll.wait(max(0.0, min(apart, min(unanswered, default=math.inf) - time.monotonic())))

    def _tell_again(self) -> None:
        for todo in self.todo.values():
            todo.due_at = 0.0


class Lines:
    """All agents."""

    def __init__(self) -> None:
        self._lines: dict[uuid.UUID, Line] = {}
        self._copies: dict[uuid.UUID, dict[uuid.UUID, Line]] = {}
        self._reminded: set[Line] = set()
        self.pending = 0

    @property
    def polls(self) -> int:
        """How many are held now."""
        return sum(line.poll.is_held for line in self._lines.values())

    def find(self, agent: uuid.UUID) -> Line | None:
        return self._lines.get(agent)

    def agents(self) -> list[Agent]:
        return [line.agent for line in self._lines.values()]

    def decide(self, agents: Iterable[Agent]) -> None:
        """Take in what was decided about agents; the poll of one that was revoked is answered at once."""
        for agent in agents:
            line = self._lines.setdefault(agent.id, Line(agent))
            self.pending += (agent.state is AgentState.PENDING) - (line.agent.state is AgentState.PENDING and line.agent is not agent)
            line.agent = agent
            if agent.copy_of is not None:
                self._copies.setdefault(agent.copy_of, {})[agent.id] = line
            line.wake_all()

    def copies(self, agent: uuid.UUID) -> list[Agent]:
        """The copies of an agent that have no credential of their own, the newest first."""
        lines = self._copies.get(agent)
        if not lines:
            return []
        found = (line.agent for line in lines.values())
        return sorted((copy for copy in found if copy.generation == 1), key=lambda copy: copy.joined_at, reverse=True)

    def order(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if line := self._lines.get(order.agent):
                line.order(order)
                if order.state is DeliveryState.CLOSED:
                    self._reminded.add(line)

    def remind(self) -> None:
        """Answer the polls of those that shall forget something, and have not heard so since: it rides along with what is urgent."""
        now = time.monotonic()
        lines, self._reminded = self._reminded, set()
        for line in lines:
            if line.has_due(now):
                line.wake()

    def seen(self, since: float) -> list[Seen]:
        """The agents that were heard of since then, a time of the monotonic clock."""
        now = time.monotonic()
        found = []
        for line in self._lines.values():
            if line.heard_at >= since and line.version:
                found.append(Seen(line.agent.id, now - line.heard_at, line.boot, line.version, line.telemetry, line.facts))
                line.facts = None
        return found

    def turned(self, now: float, seconds: float) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
        """The agents that came since the last call, and those that this hub has not heard for so long; each once in that time."""
        came, silent = [], []
        for line in self._lines.values():
            if line.agent.state is not AgentState.APPROVED:
                continue
            if now - max(line.heard_at, line.missed_at) > seconds:
                line.is_there, line.missed_at = False, now
                silent.append(line.agent.id)
            elif not line.is_there and line.heard_at > line.missed_at:
                line.is_there = True
                came.append(line.agent.id)
        return came, silent

    def wake_all(self) -> None:
        for line in self._lines.values():
            line.wake_all()
