"""What the hub's pages ask of tasks. However large a task is, each question reads a bounded part of it, by an index of tables.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import BindParameter, Integer, LargeBinary, Select, and_, bindparam, case, func, or_, select

from models import approvals, reading, slices
from models.access import Access
from models.errors import NotFoundError
from models.records import Approval, Execution, Task, TaskLine
from models.slices import END, Range
from models.states import ExecutionState, TaskState
from models.tables import AttemptRow, ExecutionRow, OutputRow, TaskRow
from models.tokens import Token
from models.values import Stream

_E = ExecutionState
# What an operator looks for first.
ATTENTION = (_E.FAILED, _E.TIMED_OUT, _E.UNREACHABLE, _E.LOST, _E.CANCELED, _E.RUNNING, _E.QUEUED, _E.PENDING, _E.SUCCEEDED)

SCAN = 10_000  # tasks that are looked through for one page of a list with a filter
HISTORY = 500  # tasks, the newest ones, that are looked through for those of a host
HEAD = 4096  # bytes of each stream that are read to find equal outputs
_PIECES = 4000  # that are read for that in all: a command that prints byte by byte has many


@dataclass(frozen=True, slots=True)
class Lines:
    """A page of tasks, the newest first. `older` is the number before which the next page begins; None: there is nothing left."""

    lines: Sequence[TaskLine]
    older: int | None


class Place(NamedTuple):
    """Behind which execution a page of hosts begins."""

    state: ExecutionState
    host: str


@dataclass(frozen=True, slots=True)
class Head:
    """The beginnings of an attempt's streams, and how many bytes each of them has come to."""

    data: dict[Stream, bytes] = field(default_factory=lambda: dict.fromkeys(Stream, b""))
    sizes: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))

    @property
    def is_whole(self) -> bool:
        return all(len(self.data[stream]) == self.sizes[stream] for stream in Stream)


@dataclass(frozen=True, slots=True)
class Ran:
    """A task on the one host that somebody looks at."""

    task: int
    name: str
    created_by: str | None
    state: ExecutionState
    exit_code: int | None
    error: str | None
    started_at: float | None
    finished_at: float | None


class Views:
    """The questions of the pages, to one database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def lines(self, limit: int, *, before: int | None = None, state: TaskState | None = None, theirs: Token | None = None) -> Lines:
        """The newest tasks older than the number `before`; of those in a state, or of a token, among the next `SCAN` ones."""
        query = _LINES
        if state is not None:
            query = query.where(TaskRow.state == state)
        if theirs is not None:
            query = query.where(TaskRow.created_by == theirs.holder, TaskRow.created_at >= theirs.created_at)
        with self._access.reading() as connection:
            begin = _NEWEST if before is None else before
            floor = connection.scalar(_FLOOR, {"before": begin}) if query is not _LINES else None
            found = [TaskLine._make(row) for row in connection.execute(query, {"before": begin, "most": limit + 1, "floor": floor or 0})]
        if len(found) > limit:
            return Lines(found[:limit], found[limit - 1].id)
        return Lines(found, floor)

    def line(self, number: int) -> TaskLine:
        """A task by its row alone: what is asked again and again while it runs. Raises `NotFoundError`."""
        with self._access.reading() as connection:
            row = connection.execute(_LINE, {"task": number}).one_or_none()
        if row is None:
            raise NotFoundError("task", number)
        return TaskLine._make(row)

    def task(self, number: int) -> Task:
        """A task in full; raises `NotFoundError`."""
        with self._access.reading() as connection:
            return reading.task(connection, number)

    def approvals(self, number: int) -> list[Approval]:
        """What a task has asked people, the oldest first."""
        with self._access.reading() as connection:
            return approvals.of_task(connection, number)

    def hosts(
        self, number: int, limit: int, *, after: Place | None = None, state: ExecutionState | None = None, find: str = ""
    ) -> list[Execution]:
        """A page of a task's executions in the order of `ATTENTION`, and by host: in one state, with a text in their names."""
        query = hosts_query(after=after, state=state, find=find)
        values: dict[str, object] = {"task": number, "most": limit}
        if after is not None:
            values |= {"rank": ATTENTION.index(after.state), "host": after.host}
        with self._access.reading() as connection:
            ids = list(connection.scalars(query, values))
            found = {execution.id: execution for execution in reading.executions_of(connection, ids)} if ids else {}
        return [found[one] for one in ids]

    def attempts(self, number: int, host: str) -> tuple[Execution, list[Execution]]:
        """The execution of a task on a host, and every try at it, the first one first. Raises `NotFoundError`."""
        with self._access.reading() as connection:
            (execution,) = reading.executions(connection, number, host)
            tries = reading.attempts(connection, number, host) if execution.attempt_id is not None else []
        return execution, tries

    def heads(self, attempts: Iterable[int]) -> dict[int, Head]:
        """The first `HEAD` bytes of both streams of these attempts, as far as `_PIECES` pieces go."""
        values = {"attempts": list(attempts)}
        with self._access.reading() as connection:
            heads = {
                row.id: Head(sizes={stream: getattr(row, stream.value) or 0 for stream in Stream})
                for row in connection.execute(_SIZES, values)
            }
            for row in connection.execute(_HEADS, values):
                head, stream = heads[row.attempt_id].data, Stream(row.stream)
                if row.offset == len(head[stream]):  # else something was left out before it
                    head[stream] = (head[stream] + row.data)[:HEAD]
        return heads

    def sizes(self, attempt: int) -> dict[Stream, int]:
        """How many bytes each stream of an attempt has come to, with what was left out."""
        with self._access.reading() as connection:
            (row,) = connection.execute(_SIZES, {"attempts": [attempt]})
        return {stream: getattr(row, stream.value) or 0 for stream in Stream}

    def output(self, attempt: int, stream: Stream, start: int | None, size: int) -> Range:
        """The `size` bytes of a stream from `start` on, as far as they are stored; without a start, its last ones."""
        with self._access.reading() as connection:
            return slices.read(connection, attempt, stream, start, size)

    def history(self, host: str, limit: int) -> list[Ran]:
        """What ran last on a host, of the newest `HISTORY` tasks; the newest first."""
        with self._access.reading() as connection:
            rows = connection.execute(_ON_HOST, {"host": host, "most": limit, "looked": HISTORY})
            return [
                Ran(row.task_id, row.name, row.created_by, _E(row.state), row.exit_code, row.error, row.started_at, row.finished_at)
                for row in rows
            ]


_NEWEST = 2**62  # above every task's number
_COLUMNS = [TaskRow.__table__.c[name] for name in TaskLine._fields]
_LINE = select(*_COLUMNS).where(TaskRow.id == bindparam("task"))
_LINES = (
    select(*_COLUMNS)
    .where(TaskRow.id < bindparam("before"), TaskRow.id >= bindparam("floor"))
    .order_by(TaskRow.id.desc())
    .limit(bindparam("most", type_=Integer))
)
_FLOOR = select(TaskRow.id).where(TaskRow.id < bindparam("before")).order_by(TaskRow.id.desc()).limit(1).offset(SCAN - 1)


_rank = case({state.value: rank for rank, state in enumerate(ATTENTION)}, value=ExecutionRow.state)
_HOSTS = select(ExecutionRow.id).where(ExecutionRow.task_id == bindparam("task")).limit(bindparam("most", type_=Integer))
_BEHIND = or_(_rank > bindparam("rank"), and_(_rank == bindparam("rank"), ExecutionRow.host > bindparam("host")))


def hosts_query(*, after: Place | None, state: ExecutionState | None, find: str) -> Select[tuple[int]]:
    """The ids of a page of executions. In one state they come as the index has them; else those of one task are sorted."""
    query = _HOSTS.order_by(_rank, ExecutionRow.host) if state is None else _HOSTS.order_by(ExecutionRow.host)
    if state is not None:
        query = query.where(ExecutionRow.state == state)
    if find:
        query = query.where(ExecutionRow.host.contains(find, autoescape=True))
    if after is not None:
        query = query.where(_BEHIND if state is None else ExecutionRow.host > bindparam("host"))
    return query


_ATTEMPTS: BindParameter[list[int]] = bindparam("attempts", expanding=True)
_SIZES = select(
    AttemptRow.id,
    *(
        select(END)
        .where(OutputRow.attempt_id == AttemptRow.id, OutputRow.stream == stream.value)
        .order_by(OutputRow.offset.desc())
        .limit(1)
        .scalar_subquery()
        .label(stream.value)
        for stream in Stream
    ),
).where(AttemptRow.id.in_(_ATTEMPTS))
_HEADS = (
    select(OutputRow.attempt_id, OutputRow.stream, OutputRow.offset, func.substr(OutputRow.data, 1, HEAD, type_=LargeBinary).label("data"))
    .where(OutputRow.attempt_id.in_(_ATTEMPTS), OutputRow.stream.in_([stream.value for stream in Stream]), OutputRow.offset < HEAD)
    .order_by(OutputRow.attempt_id, OutputRow.stream, OutputRow.offset)
    .limit(_PIECES)
)

_LOOKED = select(TaskRow.id).order_by(TaskRow.id.desc()).limit(bindparam("looked", type_=Integer))
_ON_HOST = (
    select(
        ExecutionRow.task_id,
        TaskRow.name,
        TaskRow.created_by,
        ExecutionRow.state,
        ExecutionRow.exit_code,
        ExecutionRow.error,
        ExecutionRow.started_at,
        ExecutionRow.finished_at,
    )
    .join(TaskRow, TaskRow.id == ExecutionRow.task_id)
    .where(ExecutionRow.host == bindparam("host"), ExecutionRow.task_id.in_(_LOOKED))
    .order_by(ExecutionRow.task_id.desc())
    .limit(bindparam("most", type_=Integer))
)
