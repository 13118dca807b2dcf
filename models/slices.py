"""Parts of stored output, however large the whole is: only what is asked for is read."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, case, func, select

from models.tables import OutputRow
from models.values import Stream

_SEQUENCE = 3  # bytes of a UTF-8 character that a cut may leave behind


@dataclass(frozen=True, slots=True)
class Slice:
    """Some bytes of a stream, from `offset` on. `left_out` bytes right before them are not kept; the stream has `size` in all so far."""

    offset: int
    data: bytes
    left_out: int
    size: int


def read(connection: Connection, attempt_id: int, stream: Stream, offset: int, limit: int) -> Slice:
    """At most `limit` bytes from `offset` on; from the next kept byte on where those are not kept. A UTF-8 character stays whole."""
    given = {"attempt": attempt_id, "which": stream.value}
    size = connection.scalar(_SIZE, given) or 0
    found, begin = bytearray(), offset
    first = connection.scalar(_BEFORE, given | {"offset": offset}) or 0
    rows = connection.execute(_FROM, given | {"first": first, "begin": offset, "most": limit})
    for row in rows:
        at = max(row.offset, offset)
        if row.end <= at:
            continue
        if not found:
            begin = at
        if at > begin + len(found) or len(found) >= limit:
            break
        found += row.part
    rows.close()
    data = bytes(found[:limit])
    if begin + len(data) < size:
        data = _whole(data)
    return Slice(begin, data, begin - offset, max(size, begin))


def _whole(data: bytes) -> bytes:
    """Without a character that begins at the end and goes on behind it."""
    for back in range(1, min(_SEQUENCE, len(data) - 1) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a character's further byte
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back else data
    return data


_OF_STREAM = (OutputRow.attempt_id == bindparam("attempt"), OutputRow.stream == bindparam("which"))
_SIZE = select(OutputRow.offset + func.length(OutputRow.data)).where(*_OF_STREAM).order_by(OutputRow.offset.desc()).limit(1)
_BEFORE = select(func.max(OutputRow.offset)).where(*_OF_STREAM, OutputRow.offset <= bindparam("offset"))
_SKIPPED = case((OutputRow.offset < bindparam("begin"), bindparam("begin") - OutputRow.offset), else_=0)
_FROM = (
    select(
        OutputRow.offset,
        (OutputRow.offset + func.length(OutputRow.data)).label("end"),
        func.substr(OutputRow.data, _SKIPPED + 1, bindparam("most")).label("part"),  # a piece may be large
    )
    .where(*_OF_STREAM, OutputRow.offset >= bindparam("first"))
    .order_by(OutputRow.offset)
    .execution_options(yield_per=4)
)
