"""Takes over what a dead worker had running: durable runs, about which their hosts can still be asked."""

from collections import defaultdict
from dataclasses import replace

from sqlalchemy import Connection, bindparam, delete, func, select, update

from models import reading
from models.records import Claim
from models.tables import AttemptRow, ExecutionRow, OutputRow
from models.values import Stream


def adopt(connection: Connection, task_id: int, owner: str) -> list[Claim]:
    """Make every running execution of a task `owner`'s, each with its attempt; the new epoch shuts out whoever had it before.

    Output in which something was masked is dropped, and all of it is read again: where it ends on the host nobody knows.
    """
    connection.execute(_DROP, {"task": task_id})
    stored = _stored(connection, task_id)
    claims = [
        replace(
            claim,
            attempt=replace(claim.attempt, epoch=claim.attempt.epoch + 1),
            offsets={stream: stored[claim.attempt_id].get(stream, 0) for stream in Stream},
        )
        for claim in reading.running(connection, task_id)
    ]
    values = [{"execution": claim.execution_id, "attempt": claim.attempt_id, "new": claim.attempt.epoch, "who": owner} for claim in claims]
    if values:
        connection.execute(_EXECUTIONS, values)
        connection.execute(_ATTEMPTS, values)
    return claims


_EXECUTIONS = update(ExecutionRow).where(ExecutionRow.id == bindparam("execution")).values(epoch=bindparam("new"))
_ATTEMPTS = update(AttemptRow).where(AttemptRow.id == bindparam("attempt")).values(epoch=bindparam("new"), owner=bindparam("who"))
_UNDER_WAY = (
    select(ExecutionRow.attempt_id)
    .where(ExecutionRow.task_id == bindparam("task"), ExecutionRow.started_at.is_not(None), ExecutionRow.finished_at.is_(None))
    .scalar_subquery()
)
_MASKED = select(AttemptRow.id).where(AttemptRow.id.in_(_UNDER_WAY), AttemptRow.masked).scalar_subquery()
_DROP = delete(OutputRow).where(OutputRow.attempt_id.in_(_MASKED))
_STORED = (
    select(OutputRow.attempt_id, OutputRow.stream, func.sum(func.length(OutputRow.data)))
    .where(OutputRow.attempt_id.in_(_UNDER_WAY))
    .group_by(OutputRow.attempt_id, OutputRow.stream)
)


def _stored(connection: Connection, task_id: int) -> dict[int, dict[Stream, int]]:
    """The bytes stored of each stream; of a run that has not ended these are its first ones, without a gap."""
    found: dict[int, dict[Stream, int]] = defaultdict(dict)
    for attempt_id, stream, size in connection.execute(_STORED, {"task": task_id}):
        found[attempt_id][Stream(stream)] = size
    return found
