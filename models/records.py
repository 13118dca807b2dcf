"""What the store takes in and gives out. All are frozen; times are seconds since the epoch."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.policy import USUAL, Policy
from models.states import ExecutionState, TaskState
from models.values import Attempt, Command, ExecutorKind, Stream

WORKER_STOPPED = "worker stopped"  # the reason of a task that its worker's death ended


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """A task to be opened: one command on the named hosts."""

    name: str
    command: Command
    target: str
    hosts: tuple[str, ...]  # in the order of their turns
    flow_run_id: uuid.UUID | None = None  # opening twice with the same one gives the same task
    policy: Policy = USUAL
    options: Mapping[str, Any] = field(default_factory=dict)  # the flow's parameters that stand nowhere else here
    retry_of: int | None = None  # the number of the task that this one runs again
    created_by: str | None = None
    request_key: str | None = None  # of a request that makes one task, however often it comes


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task as stored, with its counters."""

    id: int
    flow_run_id: uuid.UUID | None
    name: str
    command: Command
    target: str
    state: TaskState
    reason: str | None
    hosts: int
    counts: dict[ExecutionState, int]
    created_at: float
    started_at: float | None
    finished_at: float | None
    cancel_requested_by: str | None = None
    policy: Policy = USUAL
    options: Mapping[str, Any] = field(default_factory=dict)
    retry_of: int | None = None
    owner: str | None = None  # the worker that has taken it
    created_by: str | None = None

    @property
    def done(self) -> int:
        """How many executions are in a final state."""
        return sum(count for state, count in self.counts.items() if state.is_final)


class TaskLine(NamedTuple):
    """A task as a line of a list: what its row says, without command and input. A tuple, since lists are long."""

    id: int
    flow_run_id: str | None
    name: str
    target: str
    state: str
    reason: str | None
    hosts: int
    pending: int
    queued: int
    running: int
    succeeded: int
    failed: int
    timed_out: int
    canceled: int
    unreachable: int
    lost: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    retry_of: int | None
    created_by: str | None

    @property
    def counts(self) -> dict[ExecutionState, int]:
        return {state: getattr(self, state.value) for state in ExecutionState}

    @property
    def done(self) -> int:
        """How many executions are in a final state."""
        return self.hosts - self.pending - self.queued - self.running

    @property
    def is_final(self) -> bool:
        return TaskState(self.state).is_final


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """A task on one host, as stored, with what is known of its current attempt."""

    id: int
    task_id: int
    host: str
    state: ExecutionState
    exit_code: int | None
    error: str | None
    started_at: float | None
    finished_at: float | None
    attempt_id: int | None = None
    attempt: int = 0  # its number; 0 before the first
    cut: dict[Stream, int] = field(default_factory=dict)  # bytes left out of each stream
    wave: int = 1

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, when both are known."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What somebody decided about a task; `who` is None where nobody answered, and `why` says what happened instead."""

    approved: bool
    who: str | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A question that a task put to people, as stored, with its answer when there is one."""

    id: int
    task_id: int
    question: str
    asked_at: float
    answered_at: float | None
    approved: bool | None
    who: str | None
    why: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """An execution that this process has taken, with the new attempt at it."""

    task_id: int
    execution_id: int
    attempt_id: int
    host: str
    attempt: Attempt
    wave: int = 1
    offsets: Mapping[Stream, int] | None = None  # of a run that is under way: how much of its output is stored


class OpenTask(NamedTuple):
    """A task that has not ended, as its worker's successors see it."""

    id: int
    flow_run_id: uuid.UUID | None
    cancel_requested_by: str | None
    is_durable: bool  # its commands outlive their worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt ended: the final state, and what goes with it."""

    state: ExecutionState
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one stream of an attempt, at `offset` bytes from the stream's start."""

    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """The move `queued -> running`."""

    claim: Claim
    at: float
    executor: ExecutorKind | None = None


@dataclass(frozen=True, slots=True)
class Printed:
    """Output of a running attempt."""

    claim: Claim
    pieces: tuple[Piece, ...]
    is_masked: bool = False  # in it, or before it


@dataclass(frozen=True, slots=True)
class Finished:
    """The move to a final state, with the rest of the output."""

    claim: Claim
    at: float
    was: ExecutionState
    outcome: Outcome
    pieces: tuple[Piece, ...]
    cut: dict[Stream, int]


Entry = Started | Printed | Finished
