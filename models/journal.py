"""Writes what runs report: starts, output and ends, many in one transaction, with the counters of their tasks."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, Update, bindparam, insert, update

from models import durations
from models.reading import running_on
from models.records import Claim, Entry, Finished, Piece, Printed, Started
from models.states import ExecutionState, check_move
from models.tables import AttemptRow, ExecutionRow, OutputRow, TaskRow
from models.values import Attempt, Stream

Values = dict[str, object]
_Move = tuple[ExecutionState, ExecutionState]


class StaleError(Exception):
    """At least one row is not where its writer believes it to be."""


def write_all(connection: Connection, entries: Sequence[Entry], host_limit: int | None = None) -> None:
    """Write all entries; raises `StaleError` (and the caller rolls back) when one of them came too late, or its host is busy."""
    starts = [entry for entry in entries if isinstance(entry, Started)]
    if starts and host_limit is not None:
        _check_hosts(connection, Counter(entry.claim.host for entry in starts), host_limit)
    _move(connection, _START, [_start_values(entry) for entry in starts])
    _move(connection, _FINISH, [_finish_values(entry) for entry in entries if isinstance(entry, Finished)])
    _write_attempts(connection, entries)
    _count(connection, entries)


def write_each(connection: Connection, entries: Sequence[Entry], host_limit: int | None = None) -> list[bool]:
    """Write the entries one by one, leaving out those that came too late; tells which were written."""
    return [_write_one(connection, entry, host_limit) for entry in entries]


def requeue(connection: Connection, end: Finished, following: Claim) -> bool:
    """Write the end of an attempt whose execution goes back to `queued` for the next one; False when it came too late."""
    check_move(end.was, ExecutionState.QUEUED)
    values = {**_key(end.claim, end.was), "new_epoch": following.attempt.epoch, "attempt": following.attempt_id}
    if connection.execute(_REQUEUE, values).rowcount != 1:
        return False
    _write_attempts(connection, [end])
    _add(connection, {end.claim.task_id: _moved([(end.was, ExecutionState.QUEUED)])})
    return True


def following(claim: Claim, attempt_id: int) -> Claim:
    """The claim of the next attempt at the same execution."""
    attempt = Attempt(id=uuid.uuid4(), number=claim.attempt.number + 1, epoch=claim.attempt.epoch + 1)
    return replace(claim, attempt_id=attempt_id, attempt=attempt, offsets=None)


def _check_hosts(connection: Connection, starts: Counter[str], limit: int) -> None:
    running = running_on(connection, starts)
    if any(running.get(host, 0) + number > limit for host, number in starts.items()):
        raise StaleError


def _write_one(connection: Connection, entry: Entry, host_limit: int | None) -> bool:
    try:
        write_all(connection, [entry], host_limit)
    except StaleError:  # the first statement of an entry finds out: nothing of it is written yet
        return False
    return True


def _move(connection: Connection, statement: Update, values: list[Values]) -> None:
    if values and connection.execute(statement, values).rowcount != len(values):
        raise StaleError


_AT = (ExecutionRow.id == bindparam("execution"), ExecutionRow.epoch == bindparam("known_epoch"), ExecutionRow.state == bindparam("was"))
_START = update(ExecutionRow).where(*_AT).values(state=ExecutionState.RUNNING, started_at=bindparam("at"))
_FINISH = (
    update(ExecutionRow)
    .where(*_AT)
    .values(state=bindparam("now"), exit_code=bindparam("code"), error=bindparam("text"), finished_at=bindparam("at"))
)


_REQUEUE = (
    update(ExecutionRow)
    .where(*_AT)
    .values(state=ExecutionState.QUEUED, epoch=bindparam("new_epoch"), attempt_id=bindparam("attempt"), started_at=None)
)


def _key(claim: Claim, was: ExecutionState) -> Values:
    return {"execution": claim.execution_id, "known_epoch": claim.attempt.epoch, "was": was}


def _start_values(entry: Started) -> Values:
    return {**_key(entry.claim, ExecutionState.QUEUED), "at": entry.at}


def _finish_values(entry: Finished) -> Values:
    check_move(entry.was, entry.outcome.state)
    outcome = entry.outcome
    return {**_key(entry.claim, entry.was), "now": outcome.state, "code": outcome.exit_code, "text": outcome.error, "at": entry.at}


_ATTEMPT_START = (
    update(AttemptRow)
    .where(AttemptRow.id == bindparam("attempt"))
    .values(state=ExecutionState.RUNNING, started_at=bindparam("at"), executor=bindparam("by"))
)
_ATTEMPT_FINISH = (
    update(AttemptRow)
    .where(AttemptRow.id == bindparam("attempt"))
    .values(
        state=bindparam("now"),
        exit_code=bindparam("code"),
        error=bindparam("text"),
        finished_at=bindparam("at"),
        stdout_cut=bindparam("out"),
        stderr_cut=bindparam("err"),
    )
)


_ATTEMPT_MASKED = update(AttemptRow).where(AttemptRow.id == bindparam("attempt"), ~AttemptRow.masked).values(masked=True)


def _write_attempts(connection: Connection, entries: Sequence[Entry]) -> None:
    starts = [_attempt_start(entry) for entry in entries if isinstance(entry, Started)]
    ends = [_attempt_end(entry) for entry in entries if isinstance(entry, Finished)]
    pieces = [_piece(entry.claim, piece) for entry in entries if isinstance(entry, Printed | Finished) for piece in entry.pieces]
    masked: list[Values] = [{"attempt": entry.claim.attempt_id} for entry in entries if isinstance(entry, Printed) and entry.is_masked]
    written = ((_ATTEMPT_START, starts), (insert(OutputRow), pieces), (_ATTEMPT_MASKED, masked), (_ATTEMPT_FINISH, ends))
    for statement, values in written:
        if values:
            connection.execute(statement, values)
    if measured := [entry.claim.attempt_id for entry in entries if isinstance(entry, Finished) and _is_measured(entry)]:
        durations.note(connection, measured)


def _is_measured(entry: Finished) -> bool:
    """Whether its times are those of a command: of one that was given up as lost they are not, nor when its end is told late."""
    return entry.was is ExecutionState.RUNNING and entry.outcome.state is not ExecutionState.LOST


def _attempt_start(entry: Started) -> Values:
    return {"attempt": entry.claim.attempt_id, "at": entry.at, "by": entry.executor}


def _attempt_end(entry: Finished) -> Values:
    outcome = entry.outcome
    return {
        "attempt": entry.claim.attempt_id,
        "now": outcome.state,
        "code": outcome.exit_code,
        "text": outcome.error,
        "at": entry.at,
        "out": entry.cut.get(Stream.STDOUT, 0),
        "err": entry.cut.get(Stream.STDERR, 0),
    }


def _piece(claim: Claim, piece: Piece) -> Values:
    return {"attempt_id": claim.attempt_id, "stream": piece.stream, "offset": piece.offset, "data": piece.data}


def _count(connection: Connection, entries: Sequence[Entry]) -> None:
    moves: dict[int, list[_Move]] = defaultdict(list)
    for entry in entries:
        moves[entry.claim.task_id] += _moves(entry)
    _add(connection, {task_id: _moved(found) for task_id, found in moves.items() if found})


def _moved(moves: Iterable[_Move]) -> Counter[ExecutionState]:
    counts: Counter[ExecutionState] = Counter()
    for old, new in moves:
        counts[old] -= 1
        counts[new] += 1
    return counts


def _add(connection: Connection, moved: Mapping[int, Counter[ExecutionState]]) -> None:
    if moved:
        rows = [{"task": task_id, **{f"d_{state}": counts[state] for state in ExecutionState}} for task_id, counts in moved.items()]
        connection.execute(_ADD_COUNTS, rows)


_ADD_COUNTS = (
    update(TaskRow)
    .where(TaskRow.id == bindparam("task"))
    .values({state.value: getattr(TaskRow, state.value) + bindparam(f"d_{state}") for state in ExecutionState})
)


def _moves(entry: Entry) -> list[_Move]:
    match entry:
        case Started():
            return [(ExecutionState.QUEUED, ExecutionState.RUNNING)]
        case Finished(was=was, outcome=outcome):
            return [(was, outcome.state)]
        case Printed():
            return []
