"""The worker's end of the bus: attempts handed to agents, and what becomes of them.

A delivery is a row that the worker and a hub move in turns (`DeliveryState`). The worker never waits for a row: it reads what has
changed on all of its rows since its last look, in the order of the commits.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Float, Row, bindparam, func, insert, or_, select, update

from models import upserts
from models.access import Access, tick
from models.chunks import chunks
from models.clock import Clock
from models.states import AgentState, DeliveryState
from models.tables import LIVING, AgentRow, DeliveryBodyRow, DeliveryOutputRow, DeliveryRow, spelled
from models.values import Stream

_BATCH = 4 * 1024 * 1024  # bytes of output that are read at once
_ROWS = 32  # that the driver hands over at once


@dataclass(frozen=True, slots=True)
class Body:
    """A command as agents get it, shared by all its deliveries."""

    id: uuid.UUID
    data: bytes
    sealed: bool


@dataclass(frozen=True, slots=True)
class Post:
    """Hand an attempt to the agent of this name, or else of the other one. Answered by whether there is one."""

    attempt: uuid.UUID
    agent: str
    body: Body
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """Let a held attempt start. Answered by whether it was held."""

    attempt: uuid.UUID


@dataclass(frozen=True, slots=True)
class Cancel:
    """Have an attempt ended that may have started."""

    attempt: uuid.UUID


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take an attempt back. Answered by whether it has certainly not started; it never will, then."""

    attempt: uuid.UUID


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """All of an attempt is stored: its agent may forget it."""

    attempt: uuid.UUID


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make a dead worker's attempt ours. Answered by whether there is one."""

    attempt: uuid.UUID


Request = Post | Go | Cancel | Withdraw | Acknowledge | Adopt


@dataclass(frozen=True, slots=True)
class Status:
    """Where an attempt stands, with the bytes of its streams that are stored here."""

    attempt: uuid.UUID
    state: DeliveryState
    sizes: Mapping[Stream, int]
    exit_code: int | None
    ended: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Print:
    """A piece of output, at `offset` bytes of its stream; `gap` bytes right before it are not there any more."""

    attempt: uuid.UUID
    stream: Stream
    offset: int
    gap: int
    data: bytes
    sealed: bool

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class News:
    """What a look has found. The output comes before the states that it belongs to; `more` output waits where there was too much."""

    prints: tuple[Print, ...]
    statuses: tuple[Status, ...]
    more: bool


class Deliveries:
    """All deliveries of one worker. Used by one thread."""

    def __init__(self, access: Access, owner: str) -> None:
        self._access = access
        self._owner = owner
        with access.reading() as connection:
            self._seen = connection.scalar(select(func.max(DeliveryRow.changed))) or 0
            self._printed = connection.scalar(select(func.max(DeliveryOutputRow.id))) or 0

    def apply(self, requests: Sequence[Request]) -> list[bool]:
        """Carry out requests in one transaction; the answers in the same order."""
        by_kind: dict[type[Request], list[tuple[int, Request]]] = defaultdict(list)
        for index, request in enumerate(requests):
            by_kind[type(request)].append((index, request))
        answers = [True] * len(requests)
        with self._access.writing() as connection:
            now = tick(connection)
            self._post(connection, now, by_kind.pop(Post, []), answers)
            for kind, group in by_kind.items():
                moved = self._move(connection, now, kind, [request.attempt for _, request in group])
                for index, request in group:
                    answers[index] = request.attempt in moved
        return answers

    def _move(self, connection: Connection, now: int, kind: type[Request], attempts: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Move those of these deliveries that may be; all by one statement, for each is as dear as many a row."""
        moved: set[uuid.UUID] = set()
        for some in chunks(map(str, attempts)):
            rows = connection.scalars(_STATEMENTS[kind], {"some": some, "now": now, "mine": self._owner})
            moved.update(map(uuid.UUID, rows))
        return moved

    def _post(self, connection: Connection, now: int, posts: Sequence[tuple[int, Request]], answers: list[bool]) -> None:
        found = [(index, post) for index, post in posts if isinstance(post, Post)]
        if not found:
            return
        wanted = {name for _, post in found for name in (post.agent, post.otherwise) if name is not None}
        known = {row.name: row.id for some in chunks(wanted) for row in connection.execute(_AGENTS, {"names": some})}
        agents = {post.attempt: known.get(post.agent) or known.get(post.otherwise or "") for _, post in found}
        for body in {post.body.id: post.body for _, post in found}.values():
            _insert_body(connection, body)
        rows = [_delivery(post, agent, self._owner, now) for _, post in found if (agent := agents[post.attempt])]
        if rows:
            connection.execute(insert(DeliveryRow), rows)
        for index, post in found:
            answers[index] = agents[post.attempt] is not None

    def news(self) -> News:
        """What has changed since the last look, in one view of the database."""
        with self._access.reading() as connection:
            prints, more = self._prints(connection)
            if more:  # the states come when their output has come
                return News(prints, (), more=True)
            rows = connection.execute(_CHANGED, {"mine": self._owner, "seen": self._seen}).all()
        self._seen = max([self._seen, *(row.changed for row in rows)])
        statuses = (
            Status(
                uuid.UUID(row.attempt),
                DeliveryState(row.state),
                {Stream.STDOUT: row.stdout, Stream.STDERR: row.stderr},
                row.exit_code,
                row.ended,
                row.error,
            )
            for row in rows
        )
        return News(prints, tuple(statuses), more=False)

    def _prints(self, connection: Connection) -> tuple[tuple[Print, ...], bool]:
        found: list[Print] = []
        size = 0
        with connection.execution_options(yield_per=_ROWS).execute(_PRINTED, {"mine": self._owner, "seen": self._printed}) as rows:
            for row in rows:
                found.append(_print(row))
                self._printed = row.id
                size += len(row.data)
                if size > _BATCH:
                    return tuple(found), True
        return tuple(found), False

    def printed(self, attempt: uuid.UUID, offsets: Mapping[Stream, int]) -> list[Print]:
        """What is stored of an adopted attempt's output beyond these offsets; of much only the first part."""
        found: list[Print] = []
        size = 0
        values = {"which": str(attempt), **{stream.value: offsets.get(stream, 0) for stream in Stream}}
        with self._access.reading() as connection, connection.execution_options(yield_per=_ROWS).execute(_OF_ONE, values) as rows:
            for row in rows:
                found.append(_print(row))
                size += len(row.data)
                if size > _BATCH:
                    break
        return found

    def unseen(self, seconds: float) -> dict[uuid.UUID, str]:
        """Those of our attempts that may have started, whose agents nobody has seen for so long or that were revoked; and why."""
        with self._access.reading() as connection:
            rows = connection.execute(_UNSEEN, {"mine": self._owner, "seconds": seconds}).all()
        unseen = f"its agent was not seen for {seconds:g} s"
        return {uuid.UUID(row.attempt): unseen if row.state == AgentState.APPROVED else f"its agent was {row.state}" for row in rows}


def _delivery(post: Post, agent_id: str, owner: str, now: int) -> dict[str, object]:
    return {
        "attempt": str(post.attempt),
        "agent_id": agent_id,
        "body_id": str(post.body.id),
        "owner": owner,
        "state": DeliveryState.QUEUED,
        "changed": now,
        "queued_at": time.time(),
    }


def _insert_body(connection: Connection, body: Body) -> None:
    values = {"id": str(body.id), "sealed": body.sealed, "data": body.data, "created_at": time.time()}
    connection.execute(upserts.insert(connection, DeliveryBodyRow).on_conflict_do_nothing(), values)


def _print(row: Row[Any]) -> Print:
    return Print(uuid.UUID(row.attempt), Stream(row.stream), row.offset, row.gap, row.data, row.sealed)


_AGENTS = select(AgentRow.name, AgentRow.id).where(
    LIVING, AgentRow.state == AgentState.APPROVED, AgentRow.name.in_(bindparam("names", expanding=True))
)
_SOME = (
    update(DeliveryRow)
    .where(DeliveryRow.attempt.in_(bindparam("some", expanding=True)))
    .values(changed=bindparam("now"))
    .returning(spelled(DeliveryRow.attempt))
)
_MINE = _SOME.where(DeliveryRow.owner == bindparam("mine"))
_NEVER_STARTED = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.REFUSED)
_STATEMENTS = {
    Go: _MINE.where(DeliveryRow.state == DeliveryState.HELD).values(state=DeliveryState.GO),
    Cancel: _MINE.where(DeliveryRow.state.in_((DeliveryState.GO, DeliveryState.RUNNING))).values(canceled=True),
    Withdraw: _MINE.where(DeliveryRow.state.in_(_NEVER_STARTED)).values(state=DeliveryState.CLOSED),
    Acknowledge: _MINE.where(DeliveryRow.state.in_((DeliveryState.DONE, DeliveryState.REFUSED))).values(state=DeliveryState.CLOSED),
    Adopt: _SOME.values(owner=bindparam("mine")),
}
_CHANGED = (
    select(
        spelled(DeliveryRow.attempt),
        DeliveryRow.state,
        DeliveryRow.changed,
        DeliveryRow.stdout,
        DeliveryRow.stderr,
        DeliveryRow.exit_code,
        DeliveryRow.ended,
        DeliveryRow.error,
    )
    .where(DeliveryRow.changed > bindparam("seen"), DeliveryRow.owner == bindparam("mine"))
    .where(DeliveryRow.state.in_((DeliveryState.HELD, DeliveryState.REFUSED, DeliveryState.RUNNING, DeliveryState.DONE)))
)
_PIECES = (
    select(
        DeliveryOutputRow.id,
        spelled(DeliveryRow.attempt),
        DeliveryOutputRow.stream,
        DeliveryOutputRow.offset,
        DeliveryOutputRow.gap,
        DeliveryOutputRow.data,
        DeliveryBodyRow.sealed,
    )
    .join(DeliveryRow, DeliveryRow.id == DeliveryOutputRow.delivery_id)
    .join(DeliveryBodyRow, DeliveryBodyRow.id == DeliveryRow.body_id)
    .order_by(DeliveryOutputRow.id)
)
_PRINTED = _PIECES.where(DeliveryOutputRow.id > bindparam("seen"), DeliveryRow.owner == bindparam("mine"))
_OF_ONE = _PIECES.where(
    DeliveryRow.attempt == bindparam("which"),
    or_(
        *(
            (DeliveryOutputRow.stream == stream.value)
            & (DeliveryOutputRow.offset + func.length(DeliveryOutputRow.data) > bindparam(stream.value))
            for stream in Stream
        )
    ),
)
_UNSEEN = (
    select(spelled(DeliveryRow.attempt), AgentRow.state)
    .join(AgentRow, AgentRow.id == DeliveryRow.agent_id)
    .where(DeliveryRow.owner == bindparam("mine"), DeliveryRow.state.in_((DeliveryState.GO, DeliveryState.RUNNING)))
    .where(
        or_(
            AgentRow.state != AgentState.APPROVED,
            func.coalesce(AgentRow.seen_at, AgentRow.joined_at) < Clock() - bindparam("seconds", type_=Float),
        )
    )
)
