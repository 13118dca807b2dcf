"""The one object that owns all SQL: it opens tasks, moves executions and answers questions.

Synchronous. The recorder's thread writes what runs report; everything else comes from threads of its callers. SQL is in
three rooms: journal (what runs report), sweep (moves of many rows at once), reading (questions).
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection, Engine, bindparam, func, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute

from models import database, journal, reading, sweep
from models.errors import UnavailableError
from models.records import Claim, Entry, Execution, Piece, Task, TaskLine, TaskSpec
from models.rows import Row, row
from models.states import ExecutionState, sources
from models.tables import AttemptRow, ExecutionRow, StackRow, TaskRow
from models.values import Attempt

_NEWEST = 2**62  # above every task's number


class Store:
    """All tasks, executions, attempts and outputs of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._lines = reading.Prepared(reading.TASK_LINES, engine.dialect)

    @classmethod
    def open(cls, url: str, *, cache_kib: int = 8192) -> Self:
        """Open the database at `url`; raises `UnavailableError` or `DatabaseVersionError`."""
        engine = database.connect(url, cache_kib=cache_kib)
        database.check_version(engine)
        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._writer.begin() as connection:
                yield connection
        except OperationalError as error:  # locked, full, gone
            raise UnavailableError("database", str(error.orig)) from error

    def identity(self) -> str:
        """The UUID of this database."""
        with self._engine.connect() as connection:
            return connection.execute(select(StackRow.id)).scalar_one()

    # Tasks

    def open_task(self, spec: TaskSpec, owner: str) -> Task:
        """Create a task with its executions in one transaction; the same flow run id gives the task that it gave before."""
        with self._writing() as connection:
            known = reading.task_of_flow_run(connection, spec.flow_run_id) if spec.flow_run_id else None
            task_id = known.id if known else _insert_tasks(connection, [spec], owner)[0]
            return reading.task(connection, task_id)

    def create_tasks(self, specs: Sequence[TaskSpec], owner: str | None = None) -> list[int]:
        """Create many tasks with their executions in one transaction; returns their numbers."""
        with self._writing() as connection:
            return _insert_tasks(connection, specs, owner)

    def claim(self, task_id: int, owner: str) -> list[Claim]:
        """Take every execution of a task that has never started, each with a new attempt, in the order of the target.

        What is still `running` belonged to a run of the same task that nobody follows any more, and becomes `lost`.
        """
        now = time.time()
        with self._writing() as connection:
            if reading.task(connection, task_id).counts[ExecutionState.RUNNING]:
                sweep.move(connection, task_id, {ExecutionState.RUNNING}, ExecutionState.LOST, "the flow run that followed it ended", now)
            claims = _claim(connection, task_id, owner, now)
            sweep.start_task(connection, task_id, owner, now)
            return claims

    def close_task(self, task_id: int, *, canceled: bool = False, reason: str | None = None) -> Task:
        """End a task: what never started becomes `canceled`, what is still running `lost`, and its state follows from the counters."""
        with self._writing() as connection:
            sweep.end_task(connection, task_id, canceled=canceled, reason=reason, now=time.time())
            return reading.task(connection, task_id)

    def end_orphans(self, owner: str) -> list[uuid.UUID]:
        """End every open task of `owner`'s predecessors (`host:home:incarnation` with another incarnation); returns their flow runs."""
        with self._writing() as connection:
            orphans = reading.orphans(connection, owner)
            for task_id, _ in orphans:
                sweep.end_task(connection, task_id, canceled=False, reason="worker stopped", now=time.time())
            return [uuid.UUID(flow_run_id) for _, flow_run_id in orphans if flow_run_id]

    # What runs report

    def write(self, entries: Sequence[Entry]) -> list[bool]:
        """Write entries in one transaction; False for each move that came too late, because somebody else had moved the row."""
        try:
            with self._writing() as connection:
                journal.write_all(connection, entries)
        except journal.StaleError:
            with self._writing() as connection:
                return journal.write_each(connection, entries)
        return [True] * len(entries)

    # Questions

    def task(self, task_id: int) -> Task:
        with self._engine.connect() as connection:
            return reading.task(connection, task_id)

    def task_of_flow_run(self, flow_run_id: uuid.UUID) -> Task | None:
        with self._engine.connect() as connection:
            return reading.task_of_flow_run(connection, flow_run_id)

    def line_of_flow_run(self, flow_run_id: uuid.UUID) -> TaskLine | None:
        """The task of a flow run as a line: what one asks again and again while it runs."""
        with self._engine.connect() as connection:
            return reading.line_of_flow_run(connection, flow_run_id)

    def tasks(self, limit: int = 20, before: int | None = None) -> list[TaskLine]:
        """The newest tasks first, `limit` of them, older than the number `before`."""
        rows = self._lines.rows(self._engine, most=limit, before=_NEWEST if before is None else before)
        return [TaskLine._make(row) for row in rows]

    def executions(self, task_id: int, host: str | None = None) -> list[Execution]:
        """The executions of a task in the order of its target."""
        with self._engine.connect() as connection:
            return reading.executions(connection, task_id, host)

    def output(self, attempt_id: int) -> list[Piece]:
        """What is stored of an attempt's output, each stream in order."""
        with self._engine.connect() as connection:
            return reading.output(connection, attempt_id)

    def row(self, execution: Execution) -> Row:
        """An execution with its output."""
        return row(execution, self.output(execution.attempt_id) if execution.attempt_id is not None else [])

    def recount(self, task_id: int) -> dict[ExecutionState, int]:
        """Count the executions of a task by state from the rows themselves."""
        with self._engine.connect() as connection:
            return reading.recount(connection, task_id)


def _insert_tasks(connection: Connection, specs: Sequence[TaskSpec], owner: str | None) -> list[int]:
    now = time.time()
    ids = _allocate(connection, TaskRow.id, len(specs))
    connection.execute(insert(TaskRow), [_task_values(task_id, spec, owner, now) for task_id, spec in zip(ids, specs, strict=True)])
    executions = [{"task_id": task_id, "host": host} for task_id, spec in zip(ids, specs, strict=True) for host in spec.hosts]
    if executions:
        connection.execute(insert(ExecutionRow), executions)
    return list(ids)


def _allocate(connection: Connection, column: InstrumentedAttribute[int], count: int) -> range:
    """The next ids of a table. Nobody else can take them: a writing transaction of SQLite is alone from its BEGIN on."""
    first = (connection.scalar(select(func.max(column))) or 0) + 1  # RETURNING costs a quarter of the inserts a second
    return range(first, first + count)


_FREE = (
    select(
        ExecutionRow.id,
        ExecutionRow.host,
        ExecutionRow.epoch,
        select(func.count()).where(AttemptRow.execution_id == ExecutionRow.id).scalar_subquery(),
    )
    .where(ExecutionRow.task_id == bindparam("task"), ExecutionRow.started_at.is_(None))
    .where(ExecutionRow.state.in_(sorted(sources(ExecutionState.QUEUED))))
    .order_by(ExecutionRow.id)
)


def _claim(connection: Connection, task_id: int, owner: str, now: float) -> list[Claim]:
    rows = connection.execute(_FREE, {"task": task_id}).all()
    claims = [
        Claim(
            task_id=task_id,
            execution_id=execution_id,
            attempt_id=attempt_id,
            host=host,
            attempt=Attempt(id=uuid.uuid4(), number=tried + 1, epoch=epoch + 1),
        )
        for attempt_id, (execution_id, host, epoch, tried) in zip(_allocate(connection, AttemptRow.id, len(rows)), rows, strict=True)
    ]
    if claims:
        connection.execute(insert(AttemptRow), [_attempt_values(claim, owner, now) for claim in claims])
        connection.execute(_TAKE, [_take_values(claim) for claim in claims])
    return claims


_TAKE = (
    update(ExecutionRow)
    .where(ExecutionRow.id == bindparam("execution"))
    .values(state=ExecutionState.QUEUED, epoch=bindparam("new_epoch"), attempt_id=bindparam("attempt"), error=None, finished_at=None)
)


def _take_values(claim: Claim) -> dict[str, object]:
    return {"execution": claim.execution_id, "new_epoch": claim.attempt.epoch, "attempt": claim.attempt_id}


def _attempt_values(claim: Claim, owner: str, now: float) -> dict[str, object]:
    return {
        "id": claim.attempt_id,
        "execution_id": claim.execution_id,
        "number": claim.attempt.number,
        "uuid": str(claim.attempt.id),
        "owner": owner,
        "epoch": claim.attempt.epoch,
        "state": ExecutionState.QUEUED,
        "queued_at": now,
    }


def _task_values(task_id: int, spec: TaskSpec, owner: str | None, now: float) -> dict[str, object]:
    command = spec.command
    return {
        "id": task_id,
        "flow_run_id": str(spec.flow_run_id) if spec.flow_run_id else None,
        "name": spec.name,
        "script": command.script,
        "env": dict(command.env),
        "cwd": command.cwd,
        "stdin": command.stdin,
        "timeout": command.timeout,
        "target": spec.target,
        "owner": owner,
        "hosts": len(spec.hosts),
        "pending": len(spec.hosts),
        "created_at": now,
    }
