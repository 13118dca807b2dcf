"""Moves many rows of one task at once: a claim's leftovers, a task's end, the tasks of a dead worker."""

from collections.abc import Set as AbstractSet

from sqlalchemy import Connection, func, select, update

from models import reading
from models.states import TASK_MOVES, ExecutionState, TaskState, check_move
from models.tables import AttemptRow, ExecutionRow, TaskRow

_UNSTARTED = frozenset({ExecutionState.PENDING, ExecutionState.QUEUED})


def move(connection: Connection, task_id: int, olds: AbstractSet[ExecutionState], new: ExecutionState, error: str, now: float) -> None:
    """Move every execution of a task that is in one of `olds` to the final state `new`, with its current attempt."""
    for old in olds:
        check_move(old, new)
    chosen = (ExecutionRow.task_id == task_id, ExecutionRow.state.in_(olds))
    attempts = select(ExecutionRow.attempt_id).where(*chosen, ExecutionRow.attempt_id.is_not(None))
    connection.execute(update(AttemptRow).where(AttemptRow.id.in_(attempts)).values(state=new, error=error, finished_at=now))
    connection.execute(
        update(ExecutionRow).where(*chosen).values(state=new, error=error, finished_at=now, epoch=ExecutionRow.epoch + 1)
    )  # the new epoch shuts out a writer that still believes to own the row


def count(connection: Connection, task_id: int) -> dict[ExecutionState, int]:
    """Set a task's counters from its rows; returns them."""
    counts = reading.recount(connection, task_id)
    connection.execute(update(TaskRow).where(TaskRow.id == task_id).values({state.value: number for state, number in counts.items()}))
    return counts


def start_task(connection: Connection, task_id: int, owner: str, now: float) -> None:
    """Move a task to `running`; a task that has ended is resumed."""
    connection.execute(
        update(TaskRow)
        .where(TaskRow.id == task_id, TaskRow.state.in_(_sources(TaskState.RUNNING)))
        .values(state=TaskState.RUNNING, owner=owner, started_at=func.coalesce(TaskRow.started_at, now), finished_at=None, reason=None)
    )


def end_task(connection: Connection, task_id: int, *, canceled: bool, reason: str | None, now: float) -> None:
    """End every execution that is still open, and then the task, whose state follows from its counters."""
    move(connection, task_id, _UNSTARTED, ExecutionState.CANCELED, reason or "the flow run ended before it started", now)
    move(connection, task_id, {ExecutionState.RUNNING}, ExecutionState.LOST, reason or "the flow run that followed it ended", now)
    state = _verdict(count(connection, task_id), canceled=canceled)
    connection.execute(
        update(TaskRow).where(TaskRow.id == task_id, TaskRow.state.in_(_sources(state))).values(state=state, reason=reason, finished_at=now)
    )


def _verdict(counts: dict[ExecutionState, int], *, canceled: bool) -> TaskState:
    if sum(counts.values()) == counts[ExecutionState.SUCCEEDED]:
        return TaskState.SUCCEEDED
    return TaskState.CANCELED if canceled else TaskState.FAILED


def _sources(new: TaskState) -> list[TaskState]:
    return [old for old, news in TASK_MOVES.items() if new in news]
