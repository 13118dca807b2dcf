"""Moves many rows of one task at once: a claim's leftovers, a task's end, the tasks of a dead worker."""

import uuid
from collections.abc import Set as AbstractSet

from sqlalchemy import ColumnElement, Connection, Update, bindparam, case, func, select, update
from sqlalchemy.orm import aliased

from models import approvals, reading
from models.states import TASK_MOVES, ExecutionState, TaskState, check_move
from models.tables import AttemptRow, DeliveryRow, ExecutionRow, TaskRow

_UNSTARTED = frozenset({ExecutionState.PENDING, ExecutionState.QUEUED})


def move(connection: Connection, task_id: int, olds: AbstractSet[ExecutionState], new: ExecutionState, error: str, now: float) -> None:
    """Move every execution of a task that is in one of `olds` to the final state `new`, with its current attempt."""
    for old in olds:
        check_move(old, new)
    _move_chosen(connection, _chosen(task_id, olds), new, error, now)


def _chosen(task_id: int, olds: AbstractSet[ExecutionState]) -> tuple[ColumnElement[bool], ...]:
    return ExecutionRow.task_id == task_id, ExecutionRow.state.in_(olds)


def _move_chosen(connection: Connection, chosen: tuple[ColumnElement[bool], ...], new: ExecutionState, error: str, now: float) -> None:
    attempts = select(ExecutionRow.attempt_id).where(*chosen, ExecutionRow.attempt_id.is_not(None))
    connection.execute(update(AttemptRow).where(AttemptRow.id.in_(attempts)).values(state=new, error=error, finished_at=now))
    connection.execute(
        update(ExecutionRow).where(*chosen).values(state=new, error=error, finished_at=now, epoch=ExecutionRow.epoch + 1)
    )  # the new epoch shuts out a writer that still believes to own the row


def lose_undelivered(connection: Connection, task_id: int, error: str, now: float) -> None:
    """Move every running execution of a task to `lost`, but for those that agents have."""
    attempt = aliased(AttemptRow)
    has_agent = (
        select(DeliveryRow.id).join(attempt, attempt.uuid == DeliveryRow.attempt).where(attempt.id == ExecutionRow.attempt_id).exists()
    )
    _move_chosen(connection, (*_chosen(task_id, {ExecutionState.RUNNING}), ~has_agent), ExecutionState.LOST, error, now)


def start_task(connection: Connection, task_id: int, owner: str, now: float) -> None:
    """Move a task to `running`, with counters counted anew; a task that has ended is resumed."""
    _move_task(connection, _START, task_id, TaskState.RUNNING, reading.recount(connection, task_id), new_owner=owner, now=now)


def end_task(
    connection: Connection,
    task_id: int,
    *,
    canceled: bool,
    reason: str | None,
    now: float,
    unstarted: str | None = None,
    lost: str = "the flow run that followed it ended",
) -> None:
    """End every execution that is still open, and then the task, whose state follows from its counters.

    `unstarted` also says that it was stopped by its own limits, which is a failure though every host may be `canceled`.
    """
    counts = reading.recount(connection, task_id)
    if any(counts[state] for state in (*_UNSTARTED, ExecutionState.RUNNING)):
        why = unstarted or reason
        move(connection, task_id, _UNSTARTED, ExecutionState.CANCELED, why or "the flow run ended before it started", now)
        move(connection, task_id, {ExecutionState.RUNNING}, ExecutionState.LOST, lost, now)
        counts = reading.recount(connection, task_id)
    unclaimed = connection.scalar(_STATE, {"task": task_id}) == TaskState.PENDING  # which nothing can have failed
    approvals.end(connection, task_id, reason or "the task ended", now)
    state = _verdict(counts, canceled=canceled or unclaimed, stopped=unstarted is not None)
    _move_task(connection, _END, task_id, state, counts, why=reason, now=now)


def _verdict(counts: dict[ExecutionState, int], *, canceled: bool, stopped: bool) -> TaskState:
    if sum(counts.values()) == counts[ExecutionState.SUCCEEDED]:
        return TaskState.SUCCEEDED
    nothing_ran = sum(counts.values()) == counts[ExecutionState.CANCELED]  # as of a task that its worker's death found waiting
    return TaskState.CANCELED if canceled or (nothing_ran and not stopped) else TaskState.FAILED


_STATE = select(TaskRow.state).where(TaskRow.id == bindparam("task"))
_MOVED = (
    update(TaskRow)
    .where(TaskRow.id == bindparam("task"), TaskRow.state.in_(bindparam("olds", expanding=True)))
    .values(state=bindparam("new"), **{state.value: bindparam(f"n_{state}") for state in ExecutionState})
)
_START = _MOVED.values(
    owner=bindparam("new_owner"),
    started_at=func.coalesce(TaskRow.started_at, bindparam("now")),
    finished_at=None,
    reason=None,
    # A request that ended the task before has been obeyed; one that came after its opening still counts.
    cancel_requested_at=case((TaskRow.finished_at.is_(None), TaskRow.cancel_requested_at), else_=None),
    cancel_requested_by=case((TaskRow.finished_at.is_(None), TaskRow.cancel_requested_by), else_=None),
)
_END = _MOVED.values(reason=bindparam("why"), finished_at=bindparam("now"))


def _move_task(
    connection: Connection, statement: Update, task_id: int, new: TaskState, counts: dict[ExecutionState, int], **values: object
) -> None:
    olds = [old for old, news in TASK_MOVES.items() if new in news]
    counters = {f"n_{state}": number for state, number in counts.items()}
    connection.execute(statement, {"task": task_id, "new": new, "olds": olds, **counters, **values})


_REQUEST_CANCEL = (
    update(TaskRow)
    .where(TaskRow.flow_run_id == bindparam("flow_run"), TaskRow.finished_at.is_(None), TaskRow.cancel_requested_at.is_(None))
    .values(cancel_requested_at=bindparam("now"), cancel_requested_by=bindparam("who"))
)


def request_cancel(connection: Connection, flow_run_id: uuid.UUID, by: str, now: float) -> bool:
    """Note that somebody wants a task canceled; False when it has ended, or somebody has asked before."""
    return connection.execute(_REQUEST_CANCEL, {"flow_run": str(flow_run_id), "who": by, "now": now}).rowcount == 1
