"""The store's questions. Each uses an index that tables.py declares."""

import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import ColumnElement, Connection, Dialect, Engine, Integer, Row, Select, bindparam, func, literal_column, select

from models import database
from models.errors import NotFoundError, UnavailableError
from models.policy import Policy
from models.records import Claim, Execution, OpenTask, Piece, Task, TaskLine
from models.states import ExecutionState, TaskState
from models.tables import AttemptRow, DeliveryRow, ExecutionRow, OutputRow, TaskRow
from models.values import Attempt, Command, OnDisconnect, Stream

# Statements are made once: building one anew costs as much as running it. Columns and not classes: rows are read by name.
_TASK = select(*TaskRow.__table__.c).where(TaskRow.id == bindparam("task"))
_TASK_OF_FLOW_RUN = select(*TaskRow.__table__.c).where(TaskRow.flow_run_id == bindparam("flow_run"))


def task(connection: Connection, task_id: int) -> Task:
    row = connection.execute(_TASK, {"task": task_id}).one_or_none()
    if row is None:
        raise NotFoundError("task", task_id)
    return _task(row)


def task_of_flow_run(connection: Connection, flow_run_id: uuid.UUID) -> Task | None:
    row = connection.execute(_TASK_OF_FLOW_RUN, {"flow_run": str(flow_run_id)}).one_or_none()
    return _task(row) if row else None


class Prepared:
    """A statement compiled once for its driver: the road for questions that are asked all the time."""

    def __init__(self, statement: Select[Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._defaults = compiled.params
        self._order = compiled.positiontup

    def rows(self, engine: Engine, **values: object) -> list[Any]:
        """What it finds; raises `UnavailableError`."""
        given = self._defaults | values
        try:
            with database.explained(), closing(engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute(self._text, tuple(given[name] for name in self._order) if self._order else given)
                return list(cursor.fetchall())
        except engine.dialect.loaded_dbapi.OperationalError as error:
            raise UnavailableError("database", str(error)) from error


LINE = select(*(TaskRow.__table__.c[name] for name in TaskLine._fields))
_LINE_OF_FLOW_RUN = LINE.where(TaskRow.flow_run_id == bindparam("flow_run"))
TASK_LINES = LINE.where(TaskRow.id < bindparam("before")).order_by(TaskRow.id.desc()).limit(bindparam("most", type_=Integer))


def line_of_flow_run(connection: Connection, flow_run_id: uuid.UUID) -> TaskLine | None:
    row = connection.execute(_LINE_OF_FLOW_RUN, {"flow_run": str(flow_run_id)}).one_or_none()
    return TaskLine._make(row) if row else None


def _task(row: Row[Any]) -> Task:
    return Task(
        id=row.id,
        flow_run_id=uuid.UUID(row.flow_run_id) if row.flow_run_id else None,
        name=row.name,
        command=Command(
            script=row.script,
            env=row.env,
            cwd=row.cwd,
            stdin=row.stdin,
            timeout=row.timeout,
            on_disconnect=OnDisconnect(row.on_disconnect),
            become=row.become,
            become_password=row.become_password,
            umask=row.umask,
            interpreter=tuple(row.interpreter),
            arguments=tuple(row.arguments),
        ),
        target=row.target,
        state=TaskState(row.state),
        reason=row.reason,
        hosts=row.hosts,
        counts={state: getattr(row, state.value) for state in ExecutionState},
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        cancel_requested_by=row.cancel_requested_by,
        policy=Policy.from_dict(row.policy or {}),
        options=row.options or {},
        retry_of=row.retry_of,
        owner=row.owner,
        created_by=row.created_by,
    )


_EXECUTION = (
    select(
        ExecutionRow.id,
        ExecutionRow.task_id,
        ExecutionRow.host,
        ExecutionRow.wave,
        ExecutionRow.state,
        ExecutionRow.exit_code,
        ExecutionRow.error,
        ExecutionRow.started_at,
        ExecutionRow.finished_at,
        ExecutionRow.attempt_id,
        AttemptRow.number,
        AttemptRow.stdout_cut,
        AttemptRow.stderr_cut,
    )
    .outerjoin(AttemptRow, AttemptRow.id == ExecutionRow.attempt_id)
    .order_by(ExecutionRow.id)
)
_ATTEMPTS = (
    select(
        AttemptRow.id.label("attempt_id"),
        AttemptRow.number,
        AttemptRow.state,
        AttemptRow.exit_code,
        AttemptRow.error,
        AttemptRow.started_at,
        AttemptRow.finished_at,
        AttemptRow.stdout_cut,
        AttemptRow.stderr_cut,
        ExecutionRow.id,
        ExecutionRow.task_id,
        ExecutionRow.host,
        ExecutionRow.wave,
    )
    .join(ExecutionRow, ExecutionRow.id == AttemptRow.execution_id)
    .order_by(ExecutionRow.id, AttemptRow.number)
)


def executions(connection: Connection, task_id: int, host: str | None) -> list[Execution]:
    return _of_task(connection, _EXECUTION, task_id, host)


def attempts(connection: Connection, task_id: int, host: str | None) -> list[Execution]:
    return _of_task(connection, _ATTEMPTS, task_id, host)


def executions_where(connection: Connection, task_id: int, chosen: Sequence[ColumnElement[bool]], limit: int) -> list[Execution]:
    rows = connection.execute(_EXECUTION.where(ExecutionRow.task_id == task_id, *chosen).limit(limit))
    return [_execution(row) for row in rows]


def ended_since(connection: Connection, task_id: int, since: float, limit: int) -> list[Execution]:
    query = _EXECUTION.where(ExecutionRow.task_id == task_id, ExecutionRow.finished_at >= since)
    rows = connection.execute(query.order_by(None).order_by(ExecutionRow.finished_at, ExecutionRow.id).limit(limit))
    return [_execution(row) for row in rows]


def executions_of(connection: Connection, ids: Iterable[int]) -> list[Execution]:
    """The executions with these ids, in the order of their targets."""
    return [_execution(row) for row in connection.execute(_EXECUTION.where(ExecutionRow.id.in_(list(ids))))]


def _of_task(connection: Connection, select_them: Select[Any], task_id: int, host: str | None) -> list[Execution]:
    query = select_them.where(ExecutionRow.task_id == task_id)
    rows = connection.execute(query if host is None else query.where(ExecutionRow.host == host)).all()
    if host is not None and not rows:
        raise NotFoundError("host", f"{host} in task {task_id}", look=f"task show {task_id}")
    return [_execution(row) for row in rows]


def _execution(row: Row[Any]) -> Execution:
    return Execution(
        id=row.id,
        task_id=row.task_id,
        host=row.host,
        state=ExecutionState(row.state),
        exit_code=row.exit_code,
        error=row.error,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempt_id=row.attempt_id,
        attempt=row.number or 0,
        cut={Stream.STDOUT: row.stdout_cut or 0, Stream.STDERR: row.stderr_cut or 0},
        wave=row.wave,
    )


def output(connection: Connection, attempt_id: int) -> list[Piece]:
    query = select(OutputRow.stream, OutputRow.offset, OutputRow.data).where(OutputRow.attempt_id == attempt_id)
    rows = connection.execute(query.order_by(OutputRow.stream, OutputRow.offset))
    return [Piece(Stream(stream), offset, data) for stream, offset, data in rows]


_RECOUNT = select(ExecutionRow.state, func.count()).where(ExecutionRow.task_id == bindparam("task")).group_by(ExecutionRow.state)


def recount(connection: Connection, task_id: int) -> dict[ExecutionState, int]:
    found = {ExecutionState(state): number for state, number in connection.execute(_RECOUNT, {"task": task_id})}
    return dict.fromkeys(ExecutionState, 0) | found


# What runs by an agent outlives its worker, whatever the task says.
_HAS_DELIVERIES = (
    select(DeliveryRow.id)
    .join(AttemptRow, AttemptRow.uuid == DeliveryRow.attempt)
    .join(ExecutionRow, ExecutionRow.attempt_id == AttemptRow.id)
    .where(ExecutionRow.task_id == TaskRow.id, ExecutionRow.state == ExecutionState.RUNNING)
    .exists()
    .label("has_deliveries")
)
_OPEN_TASKS = select(TaskRow.id, TaskRow.flow_run_id, TaskRow.cancel_requested_by, TaskRow.on_disconnect, _HAS_DELIVERIES).where(
    TaskRow.finished_at.is_(None), TaskRow.owner == bindparam("worker")
)
_CANCELS = _OPEN_TASKS.where(TaskRow.cancel_requested_at.is_not(None))


def open_tasks(connection: Connection, owner: str) -> list[OpenTask]:
    """The tasks of a worker that have not ended."""
    return [_open_task(row) for row in connection.execute(_OPEN_TASKS, {"worker": owner})]


def cancels(connection: Connection, owner: str) -> list[OpenTask]:
    """Those of them that somebody wants canceled."""
    return [_open_task(row) for row in connection.execute(_CANCELS, {"worker": owner})]


def _open_task(row: Row[Any]) -> OpenTask:
    flow_run_id = uuid.UUID(row.flow_run_id) if row.flow_run_id else None
    return OpenTask(row.id, flow_run_id, row.cancel_requested_by, row.on_disconnect != OnDisconnect.END or row.has_deliveries)


_RUNNING = (
    select(ExecutionRow.id, ExecutionRow.host, ExecutionRow.epoch, ExecutionRow.attempt_id, AttemptRow.number, AttemptRow.uuid)
    .join(AttemptRow, AttemptRow.id == ExecutionRow.attempt_id)
    .where(ExecutionRow.task_id == bindparam("task"), ExecutionRow.state == ExecutionState.RUNNING)
    .order_by(ExecutionRow.id)
)


def running(connection: Connection, task_id: int) -> list[Claim]:
    """The claims under which the running executions of a task were started."""
    return [
        Claim(
            task_id=task_id,
            execution_id=row.id,
            attempt_id=row.attempt_id,
            host=row.host,
            attempt=Attempt(id=uuid.UUID(row.uuid), number=row.number, epoch=row.epoch),
        )
        for row in connection.execute(_RUNNING, {"task": task_id})
    ]


# What runs, of whichever task: what a dead worker left is running until a reaper has ended it (`Store.settle`), or the next worker has.
# The state stands there as a word, for only so the index of running executions is used.
_RUNNING_ON = (
    select(ExecutionRow.host, func.count())
    .where(ExecutionRow.state == literal_column("'running'"), ExecutionRow.host.in_(bindparam("hosts", expanding=True)))
    .group_by(ExecutionRow.host)
)


def running_on(connection: Connection, hosts: Iterable[str]) -> dict[str, int]:
    """How many executions run on each of `hosts` that has any."""
    return {row[0]: row[1] for row in connection.execute(_RUNNING_ON, {"hosts": list(hosts)})}


def is_queued(connection: Connection, claim: Claim) -> bool:
    query = select(ExecutionRow.id).where(
        ExecutionRow.id == claim.execution_id,
        ExecutionRow.epoch == claim.attempt.epoch,
        ExecutionRow.state == ExecutionState.QUEUED,
    )
    return connection.scalar(query) is not None
