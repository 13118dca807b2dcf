"""A stream by the screen: so many bytes from an offset on, cut where characters begin, with marks where something was left out."""

from collections.abc import Sequence
from dataclasses import dataclass

from hub.pages import text
from models.slices import Range
from models.values import Stream
from models.views import Views

SIZE = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Some text, and how many bytes were left out before it."""

    text: str
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Screen:
    """What is shown at once. Numbers are offsets in bytes; `following` is where the next screen begins, or what is yet to come."""

    start: int
    end: int
    size: int
    parts: Sequence[Part]
    previous: int | None
    next: int | None
    following: int
    last: int


def screen(views: Views, attempt: int, stream: Stream, start: int | None, *, is_final: bool, size: int = SIZE) -> Screen:
    """The screen of a stream that begins at `start`; without one, the last. Of a stream that goes on, half a character waits."""
    found = views.output(attempt, stream, start, size)
    parts, end = _parts(found, waits=not is_final and found.after is None)
    return Screen(
        start=found.start,
        end=min(end, found.end),
        size=found.size,
        parts=parts,
        previous=None if found.before is None else max(0, found.before - size),
        next=found.after,
        following=found.after if found.after is not None else end,
        last=max(0, found.size - size),
    )


def _parts(found: Range, *, waits: bool) -> tuple[list[Part], int]:
    """The texts, and the byte behind the last one."""
    parts: list[Part] = []
    at = found.before or 0
    runs: list[tuple[int, int, bytearray]] = []  # bytes left out, offset, bytes
    for piece in found.pieces:
        if runs and piece.offset == at:
            runs[-1][2].extend(piece.data)
        else:
            runs.append((piece.offset - at, piece.offset, bytearray(piece.data)))
        at = piece.offset + len(piece.data)
    end = found.end
    for left_out, offset, run in runs:
        if offset >= found.end:  # of the spare bytes
            break
        data = bytes(run)
        skipped = _rest(data) if offset == found.start == found.before else 0
        wanted = found.end - offset
        shown = data[skipped : wanted + _rest(data[wanted:])]
        if waits and offset + len(data) >= found.size:
            shown = shown[: len(shown) - _begun(shown)]
            end = offset + skipped + len(shown)
        if shown or left_out:
            parts.append(Part(text.decoded(shown), left_out))
    return parts, end


def _rest(data: bytes) -> int:
    """How many bytes at the front belong to a character that began before them: the screen before shows it."""
    return next((count for count, byte in enumerate(data[:3]) if not _continues(byte)), min(len(data), 3))


def _begun(data: bytes) -> int:
    """How many bytes at the end begin a character that is not there yet (RFC 3629, section 3)."""
    for count, byte in enumerate(reversed(data[-3:]), 1):
        if not _continues(byte):
            length = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
            return count if length > count else 0
    return 0


def _continues(byte: int) -> bool:
    return byte >> 6 == 0b10
