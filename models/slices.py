"""Parts of stored output, however large the whole is: only what is asked for is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, LargeBinary, bindparam, case, cast, func, select

from models.records import Piece
from models.tables import OutputRow
from models.values import Stream

SPARE = 3


@dataclass(frozen=True, slots=True)
class Range:
    """What is stored of a stream from byte `start` to byte `end`, and `SPARE` bytes more, for a character that the end cuts.

    `size` is what the stream has come to, with what was left out.
    """

    start: int
    end: int
    size: int
    pieces: Sequence[Piece]
    before: int | None  # where what is stored before `start` ends; None: it is the first
    after: int | None  # where what is stored from `end` on begins; None: it is the last


@dataclass(frozen=True, slots=True)
class Slice:
    """Some bytes of a stream in one piece, from `offset` on. `left_out` bytes right before them are not kept; `size` as in `Range`."""

    offset: int
    data: bytes
    left_out: int
    size: int


def read(connection: Connection, attempt: int, stream: Stream, start: int | None, size: int) -> Range:
    """The `size` bytes of a stream from `start` on, as far as they are stored; without a start, its last ones."""
    values: dict[str, object] = {"attempt": attempt, "stream": stream.value}
    total = connection.scalar(_SIZE, values) or 0
    begin = max(0, total - size) if start is None else min(start, total)
    end = min(begin + size, total)
    last = connection.execute(_LAST_BEFORE, values | {"at": begin}).one_or_none()
    first = last.offset if last and last.offset + last.length > begin else begin
    rows = connection.execute(_RANGE, values | {"from": first, "to": end + SPARE, "begin": begin, "size": size + SPARE})
    pieces = [Piece(stream, row.offset, row.data[: end + SPARE - row.offset]) for row in rows]
    after = _after(connection, values, end) if end < total else None
    return Range(begin, end, total, pieces, min(last.offset + last.length, begin) if last else None, after)


def part(connection: Connection, attempt: int, stream: Stream, offset: int, limit: int) -> Slice:
    """At most `limit` bytes from `offset` on; from the next kept byte on where those are not kept. A UTF-8 character stays whole."""
    found = read(connection, attempt, stream, offset, limit)
    if not found.pieces and found.after is not None:
        found = read(connection, attempt, stream, found.after, limit)
    if not found.pieces:
        return Slice(offset, b"", 0, max(offset, found.size))
    begin = found.pieces[0].offset
    whole = bytearray()
    for piece in found.pieces:
        if piece.offset != begin + len(whole):
            break
        whole += piece.data
    data = bytes(whole[:limit])
    if begin + len(data) < found.size:
        data = data[: len(data) - _begun(data)]
    return Slice(begin, data, begin - offset, found.size)


def _begun(data: bytes) -> int:
    """How many bytes at the end begin a character that goes on behind them; none where that would leave nothing."""
    for back, byte in enumerate(reversed(data[-SPARE:]), 1):
        if byte >> 6 != 0b10:  # else it is a character's further byte
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return back if length > back and back < len(data) else 0
    return 0


def _after(connection: Connection, values: Mapping[str, object], end: int) -> int | None:
    last = connection.execute(_LAST_BEFORE, {**values, "at": end}).one_or_none()
    if last and last.offset + last.length > end:
        return end
    found: int | None = connection.scalar(_FIRST_FROM, {**values, "at": end})
    return found


END = OutputRow.offset + func.length(OutputRow.data)  # the length of a piece is known without reading it
_OF_STREAM = (OutputRow.attempt_id == bindparam("attempt"), OutputRow.stream == bindparam("stream"))
_SIZE = select(END).where(*_OF_STREAM).order_by(OutputRow.offset.desc()).limit(1)
_LAST_BEFORE = (
    select(OutputRow.offset, func.length(OutputRow.data).label("length"))
    .where(*_OF_STREAM, OutputRow.offset < bindparam("at"))
    .order_by(OutputRow.offset.desc())
    .limit(1)
)
_FIRST_FROM = select(OutputRow.offset).where(*_OF_STREAM, OutputRow.offset >= bindparam("at")).order_by(OutputRow.offset).limit(1)
_SKIPPED = case((OutputRow.offset < bindparam("begin"), bindparam("begin") - OutputRow.offset), else_=0)
_RANGE = (
    select(
        (OutputRow.offset + _SKIPPED).label("offset"),
        func.substr(OutputRow.data, cast(_SKIPPED + 1, Integer), bindparam("size", type_=Integer), type_=LargeBinary).label("data"),
    )
    .where(*_OF_STREAM, OutputRow.offset >= bindparam("from"), OutputRow.offset < bindparam("to"))
    .order_by(OutputRow.offset)
)
