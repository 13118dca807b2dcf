"""What agents report of their attempts: stored once, whatever arrives how often and in which order."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from models.chunks import chunks
from models.states import DeliveryState
from models.tables import DeliveryBodyRow, DeliveryOutputRow, DeliveryRow, spelled
from models.values import Stream

_PIECE = 64 * 1024  # bytes of a row at most: who reads takes whole rows

S = DeliveryState
UNKNOWN = "unknown"  # the end of an attempt whose agent does not know it any more


@dataclass(frozen=True, slots=True)
class Refusal:
    """An attempt has not started and never will; `unknown`: the agent knows nothing of it."""

    attempt: uuid.UUID
    reason: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class Printed:
    """A piece of output; the `gap` bytes right before `offset` are not there any more."""

    attempt: uuid.UUID
    stream: Stream
    offset: int
    gap: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt, and how long its streams are."""

    attempt: uuid.UUID
    exit_code: int | None
    ended: str | None
    error: str | None
    stdout: int
    stderr: int


@dataclass(slots=True)
class Report:
    """What one agent says at once. `known` is all that it knows, when it says that."""

    agent: uuid.UUID
    held: Sequence[uuid.UUID] = ()
    accepted: Sequence[uuid.UUID] = ()
    refused: Sequence[Refusal] = ()
    output: Sequence[Printed] = ()
    done: Sequence[Ended] = ()
    known: Sequence[tuple[uuid.UUID, str]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store or to compare."""
        return self.known is None and not (self.held or self.accepted or self.refused or self.output or self.done)

    @property
    def attempts(self) -> set[uuid.UUID]:
        return {
            *self.held,
            *self.accepted,
            *(one.attempt for group in (self.refused, self.output, self.done) for one in group),
            *(attempt for attempt, _ in self.known or ()),
        }


@dataclass(slots=True)
class Receipt:
    """What is stored of a report, and what its agent shall do about the rest."""

    noted: list[uuid.UUID] = field(default_factory=list)
    stored: dict[uuid.UUID, tuple[int, int]] = field(default_factory=dict)  # stdout and stderr
    forget: list[uuid.UUID] = field(default_factory=list)
    ask: list[uuid.UUID] = field(default_factory=list)
    again: bool = False  # something is to be told anew
    waits: bool = False  # something is held now, and its worker is to say go


@dataclass(slots=True)
class _Delivery:
    """A row while it is written."""

    id: int
    agent: uuid.UUID
    state: DeliveryState
    sealed: bool
    sizes: dict[Stream, int]
    exit_code: int | None = None
    ended: str | None = None
    error: str | None = None
    is_changed: bool = False

    def move(self, state: DeliveryState, error: str | None = None, ended: str | None = None, exit_code: int | None = None) -> None:
        self.state, self.error, self.ended, self.exit_code = state, error, ended, exit_code
        self.is_changed = True


def take(connection: Connection, now: int, reports: Sequence[Report], seal: Callable[[bytes], bytes]) -> list[Receipt]:
    """Store what is new in these reports; `now` is the bus's count."""
    rows = _find(connection, reports)
    taker = _Taker(rows, seal)
    receipts = [taker.take(report) for report in reports]
    if taker.pieces:
        connection.execute(insert(DeliveryOutputRow), taker.pieces)
    changed = [_values(row, now) for row in rows.values() if row.is_changed]
    if changed:
        connection.execute(_UPDATE, changed)
    return receipts


class _Taker:
    def __init__(self, rows: dict[uuid.UUID, _Delivery], seal: Callable[[bytes], bytes]) -> None:
        self._rows = rows
        self._seal = seal
        self._of_agent: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
        for attempt, row in rows.items():
            self._of_agent[row.agent].append(attempt)
        self.pieces: list[dict[str, object]] = []

    def take(self, report: Report) -> Receipt:
        receipt = Receipt()
        attempts = report.attempts
        ours = {attempt: row for attempt in attempts if (row := self._rows.get(attempt)) and row.agent == report.agent}
        receipt.forget = [attempt for attempt in attempts if attempt not in ours or ours[attempt].state is S.CLOSED]
        for gone in receipt.forget:
            ours.pop(gone, None)
        if report.known is not None:
            self._compare(report, ours, receipt)
        for attempt in report.held:
            _held(ours.get(attempt), attempt, receipt)
        for attempt in report.accepted:
            _accepted(ours.get(attempt), attempt, receipt)
        for refusal in report.refused:
            _refused(ours.get(refusal.attempt), refusal, receipt)
        for piece in report.output:
            self._printed(ours.get(piece.attempt), piece, receipt)
        for end in report.done:
            _ended(ours.get(end.attempt), end, receipt)
        return receipt

    def _printed(self, row: _Delivery | None, piece: Printed, receipt: Receipt) -> None:
        if row is None:
            return
        size = row.sizes[piece.stream]
        if row.state in {S.GO, S.RUNNING} and piece.offset - piece.gap <= size < piece.offset + len(piece.data):
            row.move(S.RUNNING)
            start = max(piece.offset, size)
            self._add(row, piece, start, start - size)
            row.sizes[piece.stream] = piece.offset + len(piece.data)
        receipt.stored[piece.attempt] = row.sizes[Stream.STDOUT], row.sizes[Stream.STDERR]

    def _add(self, row: _Delivery, piece: Printed, start: int, gap: int) -> None:
        data = piece.data[start - piece.offset :]
        for begin in range(0, len(data) or 1, _PIECE):  # without data where only the gap is told
            part = data[begin : begin + _PIECE]
            self.pieces.append(
                {
                    "delivery_id": row.id,
                    "stream": piece.stream,
                    "offset": start + begin,
                    "gap": gap if begin == 0 else 0,
                    "data": self._seal(part) if row.sealed else part,
                }
            )

    def _compare(self, report: Report, ours: dict[uuid.UUID, _Delivery], receipt: Receipt) -> None:
        """Agree on every attempt, after one of us was restarted."""
        known = dict(report.known or ())
        for attempt, row in ours.items():
            if attempt in known:
                receipt.stored[attempt] = row.sizes[Stream.STDOUT], row.sizes[Stream.STDERR]
                if known[attempt] != _SAID_AS.get(row.state):
                    receipt.ask.append(attempt)
        for attempt in self._of_agent[report.agent]:
            row = self._rows[attempt]
            if attempt not in known and row.state in {S.HELD, S.GO, S.RUNNING}:
                receipt.ask.append(attempt)
        receipt.again = True


_SAID_AS = {S.HELD: "held", S.RUNNING: "running", S.DONE: "done", S.REFUSED: "refused"}


def _held(row: _Delivery | None, attempt: uuid.UUID, receipt: Receipt) -> None:
    if row is None:
        return
    if row.state is S.QUEUED:
        row.move(S.HELD)
    receipt.waits = receipt.waits or row.state is S.HELD
    receipt.noted.append(attempt)


def _accepted(row: _Delivery | None, attempt: uuid.UUID, receipt: Receipt) -> None:
    if row is None:
        return
    if row.state is S.GO:
        row.move(S.RUNNING)
    receipt.noted.append(attempt)


def _refused(row: _Delivery | None, refusal: Refusal, receipt: Receipt) -> None:
    if row is None:
        return
    receipt.noted.append(refusal.attempt)
    if not refusal.unknown:
        if row.state in {S.QUEUED, S.HELD, S.GO}:
            row.move(S.REFUSED, refusal.reason)
    elif row.state is S.HELD:  # nobody gave the word, so the forgotten one has not started: it is to be held once more
        row.move(S.QUEUED)
        receipt.again = True
    elif row.state in {S.GO, S.RUNNING}:
        row.move(S.DONE, refusal.reason, ended=UNKNOWN)


def _ended(row: _Delivery | None, end: Ended, receipt: Receipt) -> None:
    if row is None:
        return
    if row.state in {S.GO, S.RUNNING}:
        if row.sizes[Stream.STDOUT] < end.stdout or row.sizes[Stream.STDERR] < end.stderr:
            receipt.stored[end.attempt] = row.sizes[Stream.STDOUT], row.sizes[Stream.STDERR]
            return
        row.move(S.DONE, end.error, end.ended, end.exit_code)
    receipt.noted.append(end.attempt)


_ROWS = select(
    DeliveryRow.id,
    spelled(DeliveryRow.attempt),
    spelled(DeliveryRow.agent_id),
    DeliveryRow.state,
    DeliveryRow.stdout,
    DeliveryRow.stderr,
    DeliveryRow.exit_code,
    DeliveryRow.ended,
    DeliveryRow.error,
    DeliveryBodyRow.sealed,
).join(DeliveryBodyRow, DeliveryBodyRow.id == DeliveryRow.body_id)
_BY_ATTEMPT = _ROWS.where(DeliveryRow.attempt.in_(bindparam("some", expanding=True)))
_BY_AGENT = _ROWS.where(DeliveryRow.agent_id.in_(bindparam("some", expanding=True)))
_UPDATE = (
    update(DeliveryRow)
    .where(DeliveryRow.id == bindparam("which"))
    .values(
        state=bindparam("new"),
        changed=bindparam("now"),
        stdout=bindparam("out"),
        stderr=bindparam("err"),
        exit_code=bindparam("code"),
        ended=bindparam("why"),
        error=bindparam("text"),
    )
)


def _find(connection: Connection, reports: Sequence[Report]) -> dict[uuid.UUID, _Delivery]:
    found: dict[uuid.UUID, _Delivery] = {}
    attempts = {str(attempt) for report in reports for attempt in report.attempts}
    agents = {str(report.agent) for report in reports if report.known is not None}
    for statement, keys in ((_BY_ATTEMPT, attempts), (_BY_AGENT, agents)):
        for some in chunks(keys):
            found.update((uuid.UUID(row.attempt), _delivery(row)) for row in connection.execute(statement, {"some": some}))
    return found


def _delivery(row: Row[Any]) -> _Delivery:
    sizes = {Stream.STDOUT: row.stdout, Stream.STDERR: row.stderr}
    agent = uuid.UUID(row.agent_id)
    return _Delivery(row.id, agent, DeliveryState(row.state), row.sealed, sizes, row.exit_code, row.ended, row.error)


def _values(row: _Delivery, now: int) -> dict[str, object]:
    return {
        "which": row.id,
        "new": row.state,
        "now": now,
        "out": row.sizes[Stream.STDOUT],
        "err": row.sizes[Stream.STDERR],
        "code": row.exit_code,
        "why": row.ended,
        "text": row.error,
    }
