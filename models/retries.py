"""Which hosts of a task are run again."""

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from models.records import Execution
from models.states import ExecutionState

_S = ExecutionState


class Kind(StrEnum):
    """The hosts of an ended task that may be asked for."""

    FAILED = "failed"  # failed, timed out, unreachable, or never started
    LOST = "lost"
    NOT_STARTED = "not started"  # no try of it ever started
    ALL = "all"


def choose(executions: Iterable[Execution], attempts: Iterable[Execution], kinds: Collection[Kind]) -> list[str]:
    """The hosts of these kinds, in the order of the task; a host may be of several."""
    started = {attempt.host for attempt in attempts if attempt.started_at is not None}
    return [execution.host for execution in executions if _kinds(execution, has_started=execution.host in started) & set(kinds)]


def _kinds(execution: Execution, *, has_started: bool) -> set[Kind]:
    found = {Kind.ALL}
    if execution.state in {_S.FAILED, _S.TIMED_OUT, _S.UNREACHABLE} or execution.started_at is None:
        found.add(Kind.FAILED)
    if execution.state is _S.LOST:
        found.add(Kind.LOST)
    if not has_started:
        found.add(Kind.NOT_STARTED)
    return found


def describe(kinds: Sequence[Kind]) -> str:
    """The kinds as a sentence names them: `lost or not started`."""
    words = {Kind.FAILED: "failed, timed out, unreachable or never started", Kind.ALL: "there"}
    return " or ".join(words.get(kind, kind.value) for kind in kinds)
