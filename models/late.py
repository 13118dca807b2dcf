"""Corrects what was given up as `lost`, once an agent has told its end after all.

The execution moves from `lost` to its outcome, and its task's counters with it; the state in which the task ended stays. Only what the
worker has not stored of the output is added, within the limit of a run.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, literal_column, select, update

from models import journal, news
from models.news import Kind
from models.output import Capture
from models.records import Claim, Finished, Outcome, Piece
from models.states import DeliveryState, ExecutionState
from models.tables import AttemptRow, DeliveryBodyRow, DeliveryOutputRow, DeliveryRow, ExecutionRow, OutputRow
from models.values import Attempt, Stream

_AT_ONCE = 100  # executions of one transaction: others wait for it
_KEPT = 7 * 86400.0  # seconds in which an end may come late
_ENDS = {
    "timed_out": Outcome(state=ExecutionState.TIMED_OUT, error="timed out; its host told so late"),
    "canceled": Outcome(state=ExecutionState.CANCELED, error="canceled; its host told so late"),
}
_UNSHOWN = "its end came late; what it printed meanwhile is not kept, since it may show a secret"


def is_any(connection: Connection) -> bool:
    """Whether there is something to correct."""
    return connection.execute(_LATE.limit(1), _since()).first() is not None


def correct(connection: Connection, now: int, limit: int) -> bool:
    """Correct executions whose ends have come, and close their deliveries; whether there may be more of them.

    `now` is the bus's count, and `limit` the bytes that are kept of a stream.
    """
    rows = connection.execute(_LATE, _since()).all()
    found = [(row, outcome) for row in rows if (outcome := _outcome(row))]
    ends = [_finished(connection, row, outcome, limit) for row, outcome in found]
    written = journal.write_each(connection, ends)
    corrected = {end.claim.task_id for end, is_written in zip(ends, written, strict=True) if is_written}
    news.write(connection, Kind.CORRECTED, map(str, sorted(corrected)))
    if rows:
        connection.execute(_CLOSE, [{"which": row.delivery_id, "now": now} for row in rows])
    return len(rows) == _AT_ONCE


def _since() -> dict[str, object]:
    return {"since": time.time() - _KEPT}


def _outcome(row: Row[Any]) -> Outcome | None:
    """How it ended; None where its host cannot tell either."""
    if row.delivery_state != DeliveryState.DONE:
        return None  # it never started, which nobody can say of it any more
    if row.ended in _ENDS:
        return _ENDS[row.ended]
    if row.ended is not None or row.exit_code is None:
        return None
    state = ExecutionState.FAILED if row.exit_code else ExecutionState.SUCCEEDED
    return Outcome(state=state, exit_code=row.exit_code, error=_UNSHOWN if row.sealed else None)


def _finished(connection: Connection, row: Row[Any], outcome: Outcome, limit: int) -> Finished:
    pieces: tuple[Piece, ...] = ()
    cut: Mapping[Stream, int] = {}
    if not row.sealed:  # the secrets that are masked in it are known to nobody but its worker
        pieces, cut = _output(connection, row, limit)
    cut_before = {Stream.STDOUT: row.stdout_cut, Stream.STDERR: row.stderr_cut}
    claim = Claim(
        task_id=row.task_id,
        execution_id=row.id,
        attempt_id=row.attempt_id,
        host=row.host,
        attempt=Attempt(id=uuid.UUID(row.uuid), number=row.number, epoch=row.epoch),
    )
    total = {stream: before + cut.get(stream, 0) for stream, before in cut_before.items()}
    return Finished(claim, time.time(), ExecutionState.LOST, outcome, pieces, total)


def _output(connection: Connection, row: Row[Any], limit: int) -> tuple[tuple[Piece, ...], dict[Stream, int]]:
    """What came beyond the output that is stored, and how much of it is left out."""
    at = dict.fromkeys(Stream, 0)
    at.update((Stream(stream), size) for stream, size in connection.execute(_STORED, {"attempt": row.attempt_id}).tuples())
    capture = Capture(limit, at)
    for piece in connection.execute(_PRINTED, {"which": row.delivery_id}):
        stream, here = Stream(piece.stream), at[Stream(piece.stream)]
        end = piece.offset + len(piece.data)
        if end <= here:
            continue
        if piece.offset > here:
            capture.skip(stream, piece.offset - here)
        capture.add(stream, piece.data[max(0, here - piece.offset) :])
        at[stream] = end
    return capture.finish()


# The state stands there as a word, for only so the index of lost executions is used.
_LATE = (
    select(
        ExecutionRow.id,
        ExecutionRow.task_id,
        ExecutionRow.host,
        ExecutionRow.epoch,
        ExecutionRow.attempt_id,
        AttemptRow.uuid,
        AttemptRow.number,
        AttemptRow.stdout_cut,
        AttemptRow.stderr_cut,
        DeliveryRow.id.label("delivery_id"),
        DeliveryRow.state.label("delivery_state"),
        DeliveryRow.exit_code,
        DeliveryRow.ended,
        DeliveryBodyRow.sealed,
    )
    .join(AttemptRow, AttemptRow.id == ExecutionRow.attempt_id)
    .join(DeliveryRow, DeliveryRow.attempt == AttemptRow.uuid)
    .join(DeliveryBodyRow, DeliveryBodyRow.id == DeliveryRow.body_id)
    .where(ExecutionRow.state == literal_column("'lost'"), ExecutionRow.finished_at > bindparam("since"))
    .where(DeliveryRow.state.in_((DeliveryState.DONE, DeliveryState.REFUSED)))
    .limit(_AT_ONCE)
)
_STORED = (
    select(OutputRow.stream, func.max(OutputRow.offset + func.length(OutputRow.data)))
    .where(OutputRow.attempt_id == bindparam("attempt"))
    .group_by(OutputRow.stream)
)
_PRINTED = (
    select(DeliveryOutputRow.stream, DeliveryOutputRow.offset, DeliveryOutputRow.data)
    .where(DeliveryOutputRow.delivery_id == bindparam("which"))
    .order_by(DeliveryOutputRow.id)
)
_CLOSE = update(DeliveryRow).where(DeliveryRow.id == bindparam("which")).values(state=DeliveryState.CLOSED, changed=bindparam("now"))
