"""Turns executions and their output into what is printed: JSON lines, prefixed lines, folded blocks."""

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from fleetflow.text import inert, lines, stamp
from models.records import Execution, Piece
from models.states import ExecutionState
from models.values import Stream

Write = Callable[[str], None]


def streams(execution: Execution, pieces: Sequence[Piece]) -> dict[Stream, bytes]:
    """Each stream of an execution, with a line in the middle that says how many bytes were left out."""
    return {stream: _joined(execution.cut.get(stream, 0), [piece for piece in pieces if piece.stream is stream]) for stream in Stream}


def _joined(cut: int, pieces: list[Piece]) -> bytes:
    whole = bytearray()
    end = 0
    for piece in pieces:
        if piece.offset > end and cut:
            whole += f"\n[... {cut} bytes left out ...]\n".encode()
        whole += piece.data
        end = piece.offset + len(piece.data)
    return bytes(whole)


def as_json(execution: Execution, output: dict[Stream, bytes]) -> str:
    """One execution as a JSON object on one line."""
    row: dict[str, object] = {
        "task": execution.task_id,
        "host": execution.host,
        "state": execution.state.value,
        "exit_code": execution.exit_code,
        **_texts(output),
        "error": execution.error,
        "attempt": execution.attempt,
        "started_at": stamp(execution.started_at),
        "finished_at": stamp(execution.finished_at),
        "duration_s": None if execution.duration is None else round(execution.duration, 6),
        "truncated": sum(execution.cut.values()),
    }
    return json.dumps(row)


def _texts(output: dict[Stream, bytes]) -> dict[str, object]:
    texts: dict[str, object] = {}
    for stream, data in output.items():
        text = data.decode(errors="backslashreplace")
        texts[stream.value] = text
        if text.encode() != data:
            texts[f"{stream.value}_b64"] = base64.b64encode(data).decode()
    return texts


def trouble(execution: Execution) -> str | None:
    """One line on an execution that did not succeed."""
    if execution.state is ExecutionState.SUCCEEDED:
        return None
    code = execution.exit_code
    if code is not None:
        return f"failed: {_signal(code)}" if code > 128 else f"failed: exit code {code}"
    return f"{execution.state}: {inert(execution.error)}" if execution.error else execution.state.value


def _signal(code: int) -> str:
    import signal

    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})"
    except ValueError:
        return f"exit code {code}"


def print_lines(execution: Execution, output: dict[Stream, bytes], out: Write, err: Write) -> None:
    """Print each line of an execution behind its host's name."""
    host = inert(execution.host)
    for line in lines(output[Stream.STDOUT]):
        out(f"{host}: {line}")
    for line in lines(output[Stream.STDERR]):
        err(f"{host}: {line}")
    problem = trouble(execution)
    if problem:
        err(f"{host}: {problem}")


def print_folded(results: Iterable[tuple[Execution, dict[Stream, bytes]]], out: Write) -> None:
    """Print equal results together, under the folded names of their hosts, largest group first."""
    from models.targets import fold

    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for execution, output in results:
        problem = trouble(execution)
        key = (*lines(output[Stream.STDOUT]), *lines(output[Stream.STDERR]), *((f"[{problem}]",) if problem else ()))
        groups[key].append(execution.host)
    for key, hosts in sorted(groups.items(), key=lambda group: -len(group[1])):
        label = f"{inert(fold(hosts))} ({len(hosts)})" if len(hosts) > 1 else inert(hosts[0])
        rule = "-" * min(len(label), 60)
        for line in (rule, label, rule, *key):
            out(line)
