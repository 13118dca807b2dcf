"""An execution with its output as people's programs get it: what `--json` prints, and what the worker's socket answers."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from models.records import Execution, Piece
from models.values import Stream

Row = dict[str, Any]


def row(execution: Execution, pieces: Sequence[Piece]) -> Row:
    """One execution. A stream that is not UTF-8 stands there a second time, as `stdout_b64`; a cut is marked in the text."""
    return {
        **row_without_output(execution),
        **{name: text for stream in Stream for name, text in _texts(stream, joined(execution, pieces, stream)).items()},
    }


def row_without_output(execution: Execution) -> Row:
    return {
        "task": execution.task_id,
        "host": execution.host,
        "state": execution.state.value,
        "exit_code": execution.exit_code,
        "error": execution.error,
        "attempt": execution.attempt,
        "started_at": stamp(execution.started_at),
        "finished_at": stamp(execution.finished_at),
        "duration_s": None if execution.duration is None else round(execution.duration, 6),
        "truncated": sum(execution.cut.values()),
    }


def joined(execution: Execution, pieces: Sequence[Piece], stream: Stream) -> bytes:
    """A stream in one piece, with a line in its middle that says how many bytes were left out."""
    whole = bytearray()
    end = 0
    for piece in pieces:
        if piece.stream is stream:
            if piece.offset > end and execution.cut.get(stream):
                whole += f"\n[... {execution.cut[stream]} bytes left out ...]\n".encode()
            whole += piece.data
            end = piece.offset + len(piece.data)
    return bytes(whole)


def _texts(stream: Stream, data: bytes) -> Row:
    text = data.decode(errors="backslashreplace")
    if text.encode() == data:
        return {stream.value: text}
    return {stream.value: text, f"{stream.value}_b64": base64.b64encode(data).decode()}


def stamp(seconds: float | None) -> str | None:
    """A time as programs read it: RFC 3339, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
