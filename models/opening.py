"""Opens tasks with their executions, and attempts at these."""

import time
import uuid
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute

from models.policy import USUAL
from models.records import Claim, TaskSpec
from models.states import ExecutionState, sources
from models.tables import AttemptRow, ExecutionRow, TaskRow
from models.values import Attempt


def insert_tasks(connection: Connection, specs: Sequence[TaskSpec], owner: str | None) -> list[int]:
    """Create tasks with their executions; returns their numbers."""
    now = time.time()
    ids = allocate(connection, TaskRow.id, len(specs))
    rows = [_task_values(task_id, spec, owner, now) for task_id, spec in zip(ids, specs, strict=True)]
    if any(_has_more(spec) for spec in specs):  # it costs a bulk a tenth
        rows = [row | _further_values(spec) for row, spec in zip(rows, specs, strict=True)]
    connection.execute(insert(TaskRow), rows)
    _insert_executions(connection, ids, specs)
    return list(ids)


def replace_task(connection: Connection, task_id: int, spec: TaskSpec, owner: str) -> None:
    """Give a task that has not begun to a flow run, which says again what it is and which hosts it has."""
    values = _task_values(task_id, spec, owner, 0.0) | _further_values(spec)
    for name in ("id", "created_at", "created_by", "request_key", "hosts", "pending"):
        del values[name]
    rows = connection.execute(select(ExecutionRow.host).where(ExecutionRow.task_id == task_id).order_by(ExecutionRow.id))
    if tuple(rows.scalars()) != spec.hosts:
        connection.execute(delete(ExecutionRow).where(ExecutionRow.task_id == task_id))
        _insert_executions(connection, [task_id], [spec])
        values |= {"hosts": len(spec.hosts), "pending": len(spec.hosts)}
    connection.execute(update(TaskRow).where(TaskRow.id == task_id).values(values))


def _insert_executions(connection: Connection, ids: Sequence[int], specs: Sequence[TaskSpec]) -> None:
    if any(spec.policy.waves for spec in specs):
        executions = [row for task_id, spec in zip(ids, specs, strict=True) for row in _rows_in_waves(task_id, spec)]
    else:
        executions = [{"task_id": task_id, "host": host} for task_id, spec in zip(ids, specs, strict=True) for host in spec.hosts]
    if executions:
        connection.execute(insert(ExecutionRow), executions)


def _rows_in_waves(task_id: int, spec: TaskSpec) -> Iterator[dict[str, object]]:
    begin = 0
    for wave, end in enumerate(spec.policy.wave_ends(len(spec.hosts)), 1):
        yield from ({"task_id": task_id, "host": host, "wave": wave} for host in spec.hosts[begin:end])
        begin = end


def allocate(connection: Connection, column: InstrumentedAttribute[int], count: int) -> range:
    """The next ids of a table. Nobody else can take them: a writing transaction is alone from its BEGIN on."""
    first = (connection.scalar(select(func.max(column))) or 0) + 1  # RETURNING costs a quarter of the inserts a second
    return range(first, first + count)


_FREE = (
    select(
        ExecutionRow.id,
        ExecutionRow.host,
        ExecutionRow.epoch,
        ExecutionRow.wave,
        select(func.count()).where(AttemptRow.execution_id == ExecutionRow.id).scalar_subquery(),
    )
    .where(ExecutionRow.task_id == bindparam("task"), ExecutionRow.started_at.is_(None))
    .where(ExecutionRow.state.in_(sorted(sources(ExecutionState.QUEUED))))
    .order_by(ExecutionRow.id)
)


def claim(connection: Connection, task_id: int, owner: str, now: float) -> list[Claim]:
    """Take every execution of a task that has never started, each with a new attempt."""
    rows = connection.execute(_FREE, {"task": task_id}).all()
    claims = [
        Claim(
            task_id=task_id,
            execution_id=execution_id,
            attempt_id=attempt_id,
            host=host,
            attempt=Attempt(id=uuid.uuid4(), number=tried + 1, epoch=epoch + 1),
            wave=wave,
        )
        for attempt_id, (execution_id, host, epoch, wave, tried) in zip(allocate(connection, AttemptRow.id, len(rows)), rows, strict=True)
    ]
    if claims:
        connection.execute(insert(AttemptRow), [attempt_values(taken, owner, now) for taken in claims])
        connection.execute(_TAKE, {"first": claims[0].attempt_id})
    return claims


_TAKE = (  # one statement: thousands of them would cost as much as all that a claim does besides
    update(ExecutionRow)
    .where(ExecutionRow.id == AttemptRow.execution_id, AttemptRow.id >= bindparam("first"))
    .values(state=ExecutionState.QUEUED, epoch=AttemptRow.epoch, attempt_id=AttemptRow.id, error=None, finished_at=None)
)


def attempt_values(claim: Claim, owner: str, now: float) -> dict[str, object]:
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
        "on_disconnect": command.on_disconnect,
        "target": spec.target,
        "owner": owner,
        "hosts": len(spec.hosts),
        "pending": len(spec.hosts),
        "created_at": now,
    }


def _has_more(spec: TaskSpec) -> bool:
    command = spec.command
    plain = not (command.interpreter or command.arguments) and command.become is command.become_password is command.umask is None
    return spec.policy is not USUAL or not plain or bool(spec.options or spec.retry_of or spec.created_by or spec.request_key)


def _further_values(spec: TaskSpec) -> dict[str, object]:
    command = spec.command
    return {
        "become": command.become,
        "become_password": command.become_password,
        "umask": command.umask,
        "interpreter": list(command.interpreter),
        "arguments": list(command.arguments),
        "policy": spec.policy.as_dict() or None,
        "options": dict(spec.options) or None,
        "retry_of": spec.retry_of,
        "created_by": spec.created_by,
        "request_key": spec.request_key,
    }
