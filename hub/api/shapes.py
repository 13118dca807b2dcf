"""What goes over the API's wire, as OpenAPI shows it. Times are RFC 3339, in UTC."""

import base64
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from models.agents import Agent
from models.inventory import Inventory
from models.names import HOST
from models.records import Execution, Task, TaskLine
from models.rows import row_without_output, stamp
from models.slices import Slice
from models.states import ExecutionState
from models.values import ExecutorKind, Host, Stream

_LARGEST = 2**53  # that every JSON reader has as an integer

Number = Annotated[int, Field(ge=1, le=_LARGEST)]
Limit = Annotated[int, Field(ge=1, le=1000, description="How many at most.")]
Name = Annotated[str, Field(min_length=1, max_length=400)]
Text = Annotated[str, Field(max_length=300_000)]
Word = Annotated[str, Field(max_length=300)]
Seconds = Annotated[float, Field(gt=0)]


class Shape(BaseModel):
    """Takes nothing that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Asked(Shape):
    """What comes in is taken as it is: no "yes" for true."""

    model_config = ConfigDict(strict=True)


class NewTask(Asked):
    """What to run, and where: the parameters of Prefect's deployments `run-command` and `run-script`, all but `target` optional.

    A token with a scope may leave everything out.
    """

    target: Text = Field("", description="Which hosts: `web[01-20],@db,!web07`, `@prod&@web`, `tag:dc=ams`.")
    command: Text = Field("", description="Shell text for /bin/sh; or give a script.")
    script: Text = ""
    script_name: Word = ""
    interpreter: Word = Field("", description="The program that reads the script, as behind `#!`.")
    arguments: list[Text] = Field([], max_length=1000)
    timeout: Seconds | None = Field(None, description="Seconds the command may take on a host.")
    become: bool = False
    become_user: Word = "root"
    become_password: Word = Field("", description="`secret:NAME`, never the password itself.")
    forks: Annotated[int, Field(ge=1, le=100_000)] | None = None
    waves: Word = Field("", description="Sizes of a rollout in steps: `1,10%,100%`.")
    wave_pause: Annotated[float, Field(ge=0)] = 0
    confirm_waves: bool = False
    max_failures: Word = ""
    ignore_unreachable: bool = False
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_delay: Seconds = 5
    deadline: Seconds | None = None
    order: Literal["listed", "shuffled"] = "listed"
    pick: Annotated[int, Field(ge=1, le=_LARGEST)] | None = None
    cwd: Text = ""
    env: list[Text] = Field([], max_length=1000, description="`NAME=value`, stored and shown; `NAME=secret:KEY` is resolved by the worker.")
    stdin: Annotated[str, Field(max_length=400_000)] = ""
    stdin_encoding: Literal["text", "base64"] = "text"
    umask: Word = ""
    on_disconnect: Literal["configured", "end", "linger", "detach"] = "configured"
    executor: Literal["auto", "ssh", "local", "agent"] = "auto"
    user: Word = ""
    identity: Text = ""
    credentials: Word = ""
    host_key: Literal["configured", "strict", "accept-new", "off"] = "configured"
    connect_timeout: Seconds | None = None


class Retry(Asked):
    """Which hosts of an ended task run again."""

    kinds: list[Literal["failed", "lost", "not started", "all"]] = Field(["failed"], min_length=1, max_length=4)


class JoinToken(Asked):
    """The right to join."""

    expires: Annotated[float, Field(gt=0, le=31_536_000, description="Seconds.")] = 3600
    uses: Annotated[int, Field(ge=1, le=100_000)] = 1
    approves: bool = Field(False, description="Agents that join with it need nobody's approval.")


class MadeToken(Shape):
    """A join token, which is told this once."""

    token: str


class Counts(Shape):
    """How many executions are in each state."""

    pending: int
    queued: int
    running: int
    succeeded: int
    failed: int
    timed_out: int
    canceled: int
    unreachable: int
    lost: int


class Progress(Shape):
    """How far a task is."""

    task: int
    state: str
    reason: str | None
    hosts: int
    done: int
    counts: Counts
    finished_at: str | None

    @classmethod
    def of(cls, task: Task | TaskLine) -> Self:
        """As one row of the database says."""
        return cls(**_progress(task))


class TaskShown(Progress):
    """A task in a list."""

    name: str
    target: str
    flow_run: uuid.UUID | None
    created_by: str | None
    retry_of: int | None
    created_at: str | None
    started_at: str | None

    @classmethod
    def of(cls, task: Task | TaskLine) -> Self:
        """As one row of the database says."""
        return cls(**_progress(task), **_about(task))


class TaskWhole(TaskShown):
    """A task with its command and its rules."""

    command: str
    is_script: bool
    parameters: dict[str, Any]
    policy: str

    @classmethod
    def whole(cls, task: Task, parameters: Mapping[str, Any]) -> Self:
        """With the parameters that would run it again."""
        is_script = bool(task.command.interpreter)
        return cls(
            **_progress(task),
            **_about(task),
            command=task.command.script,
            is_script=is_script,
            parameters=dict(parameters),
            policy=task.policy.describe(),
        )


class ExecutionShown(Shape):
    """A task on one host."""

    task: int
    host: str
    state: ExecutionState
    exit_code: int | None
    error: str | None
    attempt: int
    wave: int
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    truncated: int

    @classmethod
    def of(cls, execution: Execution) -> Self:
        """As `--json` of the command line shows it, too."""
        return cls(**row_without_output(execution), wave=execution.wave)


class OutputRange(Shape):
    """A part of a stream. `next` is where the following one begins; it is null once all is told of a command that has ended."""

    stream: Stream
    offset: int
    text: str = Field(description="As UTF-8; what is none is escaped.")
    data_b64: str | None = Field(description="The bytes, where the text does not say them exactly.")
    left_out: int = Field(description="Bytes right before the part that are not kept.")
    next: int | None

    @classmethod
    def of(cls, stream: Stream, part: Slice, *, is_over: bool) -> Self:
        """A part as it is stored."""
        text = part.data.decode(errors="backslashreplace")
        exact = None if text.encode() == part.data else base64.b64encode(part.data).decode()
        end = part.offset + len(part.data)
        return cls(
            stream=stream,
            offset=part.offset,
            text=text,
            data_b64=exact,
            left_out=part.left_out,
            next=None if is_over and end >= part.size else end,
        )


class HostShown(Shape):
    """A host of the inventory. What is null is decided by the executor's own configuration."""

    name: str
    address: str | None
    executor: ExecutorKind | None
    port: int | None
    user: str | None
    jump: str | None
    groups: list[str]
    tags: dict[str, str]
    source: str | None

    @classmethod
    def of(cls, host: Host, inventory: Inventory) -> Self:
        """As the inventory says."""
        return cls(
            name=host.name,
            address=host.address,
            executor=host.executor,
            port=host.port,
            user=host.user,
            jump=host.jump,
            groups=sorted(host.groups),
            tags=dict(host.tags),
            source=inventory.source(host.name),
        )


class AgentShown(Shape):
    """An agent. Never its credential."""

    name: str
    id: uuid.UUID
    state: str
    joined_at: str | None
    seen_at: str | None
    decided_by: str | None
    version: str | None
    facts: dict[str, Any]
    telemetry: dict[str, Any]

    @classmethod
    def of(cls, agent: Agent) -> Self:
        """As stored."""
        return cls(
            name=agent.name,
            id=agent.id,
            state=agent.state,
            joined_at=stamp(agent.joined_at),
            seen_at=stamp(agent.seen_at),
            decided_by=agent.decided_by,
            version=agent.version,
            facts=dict(agent.facts),
            telemetry=dict(agent.telemetry),
        )


class Statistics(Shape):
    """What has run since a time."""

    since: str | None
    tasks: dict[str, int]
    executions: dict[str, int]
    agents: dict[str, int]


class AuditEntry(Shape):
    """Who did what, or was refused it."""

    id: int
    at: str | None
    who: str
    source: str
    action: str
    object: str
    result: str
    detail: str
    digest: str


class TaskPage(Shape):
    """Some tasks, the newest first; `next` is what `before` takes for those that follow."""

    items: list[TaskShown]
    next: int | None


class ExecutionPage(Shape):
    """Some executions, in the order of the task; `next` is what `after` takes."""

    items: list[ExecutionShown]
    next: int | None


class HostPage(Shape):
    """Some hosts, by name; `next` is what `after` takes."""

    items: list[HostShown]
    next: str | None


class AgentPage(Shape):
    """Some agents, by name; `next` is what `after` takes."""

    items: list[AgentShown]
    next: str | None


class AuditPage(Shape):
    """Some entries, the newest first; `next` is what `before` takes."""

    items: list[AuditEntry]
    next: int | None


def _progress(task: Task | TaskLine) -> dict[str, Any]:
    return {
        "task": task.id,
        "state": str(task.state),
        "reason": task.reason,
        "hosts": task.hosts,
        "done": task.done,
        "counts": {state.value: number for state, number in task.counts.items()},
        "finished_at": stamp(task.finished_at),
    }


def _about(task: Task | TaskLine) -> dict[str, Any]:
    return {
        "name": task.name,
        "target": task.target,
        "flow_run": task.flow_run_id,
        "created_by": task.created_by,
        "retry_of": task.retry_of,
        "created_at": stamp(task.created_at),
        "started_at": stamp(task.started_at),
    }


HostName = Annotated[str, Field(min_length=1, max_length=400)]
AgentName = Annotated[str, Field(pattern=f"^{HOST.pattern}$", max_length=253)]
