"""The states of tasks and executions, and every move that is allowed between them.

The tables `EXECUTION_MOVES` and `TASK_MOVES` are the single source: the store's updates, the database's CHECKs
and the diagram in docs/states.md are made from them.
"""

from collections.abc import Mapping
from enum import StrEnum

from models.errors import TransitionError


class ExecutionState(StrEnum):
    """Where one host of a task stands."""

    PENDING = "pending"  # nobody has taken it yet
    QUEUED = "queued"  # a worker has taken it; the command has certainly not started
    RUNNING = "running"  # the command may have started
    SUCCEEDED = "succeeded"  # exit code 0
    FAILED = "failed"  # another exit code, or a signal (128+n)
    TIMED_OUT = "timed_out"  # ended by us at its deadline
    CANCELED = "canceled"  # somebody asked, and it ended or never started
    UNREACHABLE = "unreachable"  # it never started: name, route, auth, host key, no space
    LOST = "lost"  # it may have started, and its outcome is not known

    @property
    def is_final(self) -> bool:
        return self not in {ExecutionState.PENDING, ExecutionState.QUEUED, ExecutionState.RUNNING}


class TaskState(StrEnum):
    """Where a task stands as a whole."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self not in {TaskState.PENDING, TaskState.RUNNING}


class AgentState(StrEnum):
    """What an agent may do."""

    PENDING = "pending"  # waits for somebody's approval
    APPROVED = "approved"  # gets commands
    REJECTED = "rejected"  # never got any
    REVOKED = "revoked"  # gets none any more


class DeliveryState(StrEnum):
    """Where an attempt stands on its way through an agent. In brackets: who moves it there."""

    QUEUED = "queued"  # [worker] the agent shall take it; also [hub] once more, when the agent has forgotten that it held it
    HELD = "held"  # [hub] the agent has it, has checked it, and waits for the word; it has not started
    REFUSED = "refused"  # [hub] it has certainly not started, and never will
    GO = "go"  # [worker] its start is committed: from here on it may have started
    RUNNING = "running"  # [hub] the agent has started it
    DONE = "done"  # [hub] its end and all of its output are stored
    CLOSED = "closed"  # [worker] nobody wants anything of it any more: the agent may forget it, and the row goes


_E = ExecutionState
_OUTCOMES = frozenset({_E.SUCCEEDED, _E.FAILED, _E.TIMED_OUT, _E.CANCELED})

# `queued -> queued` is a new owner taking over, or a host that could not be reached and is tried again; `running -> queued` is
# a failed command that is tried again. Both open a new attempt in the same transaction: it is this one that has certainly not
# started. The two moves from a final state back to `queued` are a resumed task running what never started.
EXECUTION_MOVES: Mapping[ExecutionState, frozenset[ExecutionState]] = {
    _E.PENDING: frozenset({_E.QUEUED, _E.CANCELED}),
    _E.QUEUED: frozenset({_E.QUEUED, _E.RUNNING, _E.UNREACHABLE, _E.CANCELED}),
    _E.RUNNING: _OUTCOMES | {_E.LOST, _E.QUEUED},
    _E.SUCCEEDED: frozenset(),
    _E.FAILED: frozenset(),
    _E.TIMED_OUT: frozenset(),
    _E.CANCELED: frozenset({_E.QUEUED}),
    _E.UNREACHABLE: frozenset({_E.QUEUED}),
    _E.LOST: _OUTCOMES,
}

_T = TaskState
TASK_MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    _T.PENDING: frozenset({_T.RUNNING, _T.CANCELED}),
    _T.RUNNING: frozenset({_T.RUNNING, _T.SUCCEEDED, _T.FAILED, _T.CANCELED}),
    _T.SUCCEEDED: frozenset(),
    _T.FAILED: frozenset({_T.RUNNING}),
    _T.CANCELED: frozenset({_T.RUNNING}),
}


def check_move(old: ExecutionState, new: ExecutionState) -> None:
    """Raise `TransitionError` unless an execution may go from `old` to `new`."""
    if new not in EXECUTION_MOVES[old]:
        raise TransitionError(old, new)


def sources(new: ExecutionState) -> frozenset[ExecutionState]:
    """The states from which an execution may come to `new`."""
    return frozenset(old for old, news in EXECUTION_MOVES.items() if new in news)


def as_markdown() -> str:
    """The tables as docs/states.md shows them."""
    lines = ["| execution | may become |", "| --- | --- |"]
    lines += [f"| {old} | {', '.join(sorted(news)) or 'nothing else'} |" for old, news in EXECUTION_MOVES.items()]
    lines += ["", "| task | may become |", "| --- | --- |"]
    lines += [f"| {old} | {', '.join(sorted(news)) or 'nothing else'} |" for old, news in TASK_MOVES.items()]
    return "\n".join(lines)
