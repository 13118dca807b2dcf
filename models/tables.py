"""The tables, declared once. The store writes them with Core; migrations/ brings older databases here. trail.py has two more.

Times are seconds since the epoch (UTC), so that they sort, subtract and compare alike in every database.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    Label,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
    type_coerce,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

from models.states import AgentState, DeliveryState, ExecutionState, TaskState
from models.values import ExecutorKind, OnDisconnect, Stream

VERSION = "0012"  # the newest step in migrations/


class Text(TypeDecorator[str]):
    """Text as any database takes it: PostgreSQL has no NUL, which a host may well print into what becomes an error."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], str | None] | None:
        return _without_nul if dialect.name == "postgresql" else None  # costs the one that writes most nothing


def _without_nul(text: str | None) -> str | None:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if text and "\0" in text else text


def spelled(column: InstrumentedAttribute[str]) -> Label[str]:
    """A UUID for who makes one of its text, with dashes or without: SQLAlchemy would make one, too, and a text of that."""
    return type_coerce(column, String).label(column.key)


class Base(DeclarativeBase):
    """Holds the metadata of all tables."""

    # A number has eight bytes in PostgreSQL, too: four would be used up by a fleet's output in some months.
    type_annotation_map: ClassVar = {str: Text, int: BigInteger().with_variant(Integer(), "sqlite")}
    metadata = MetaData(
        naming_convention={
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        }
    )


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value.value) for value in values)})", name=f"{column}_known")


_COUNTERS = tuple(state.value for state in ExecutionState)


class StackRow(Base):
    """One row: the identity of this database, by which a worker and a command line know that they mean the same one."""

    __tablename__ = "stack"

    id: Mapped[str] = mapped_column(primary_key=True)
    bus: Mapped[int] = mapped_column(BigInteger, server_default="0")  # counts what agents and their workers may have to see


class WorkerRow(Base):
    """One life of one worker. Times are the database's own (workers.py)."""

    __tablename__ = "worker"

    owner: Mapped[str] = mapped_column(primary_key=True)
    lease_until: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)  # from then on it can write nothing
    reaper: Mapped[str | None]  # the worker that ends what this one left


_ASKED = text("request_key IS NOT NULL")
_WAITS = text("request_key IS NOT NULL AND owner IS NULL AND finished_at IS NULL")


class TaskRow(Base):
    """One command on many hosts. The counters are moved by the transaction that moves an execution."""

    __tablename__ = "task"

    id: Mapped[int] = mapped_column(primary_key=True)
    flow_run_id: Mapped[str | None] = mapped_column(Uuid(as_uuid=False), unique=True)
    name: Mapped[str]
    script: Mapped[str]
    env: Mapped[dict[str, str]] = mapped_column(JSON)
    cwd: Mapped[str | None]
    stdin: Mapped[bytes] = mapped_column(LargeBinary)
    timeout: Mapped[float | None] = mapped_column(Float)
    on_disconnect: Mapped[str] = mapped_column(server_default=OnDisconnect.END.value)
    become: Mapped[str | None]
    become_password: Mapped[str | None]  # `secret:NAME`, never a value
    umask: Mapped[str | None]
    interpreter: Mapped[list[str]] = mapped_column(JSON, server_default="[]")
    arguments: Mapped[list[str]] = mapped_column(JSON, server_default="[]")
    target: Mapped[str]
    policy: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # what is not as usual
    options: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # the flow's other parameters, for a retry
    retry_of: Mapped[int | None]  # the number of the task that this one runs again; it may be gone
    owner: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=TaskState.PENDING.value)
    reason: Mapped[str | None]
    hosts: Mapped[int]
    pending: Mapped[int]
    queued: Mapped[int] = mapped_column(server_default="0")
    running: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    timed_out: Mapped[int] = mapped_column(server_default="0")
    canceled: Mapped[int] = mapped_column(server_default="0")
    unreachable: Mapped[int] = mapped_column(server_default="0")
    lost: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)
    cancel_requested_at: Mapped[float | None] = mapped_column(Float)  # whoever runs the task obeys, or ends what a dead worker left
    cancel_requested_by: Mapped[str | None]
    created_by: Mapped[str | None]  # as the REST API or the command line says
    request_key: Mapped[str | None]  # of a request at the REST API, which makes one task however often it comes

    __table_args__ = (
        _one_of("state", TaskState),
        Index("ix_task_request_key", "request_key", unique=True, sqlite_where=_ASKED, postgresql_where=_ASKED),
        # Finds the tasks that no flow run has taken yet.
        Index("ix_task_asked", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
        CheckConstraint(f"hosts = {' + '.join(_COUNTERS)}", name="counters_add_up"),
        CheckConstraint(" AND ".join(f"{counter} >= 0" for counter in _COUNTERS), name="counters_not_negative"),
        CheckConstraint("(finished_at IS NULL) = (state IN ('pending', 'running'))", name="final_has_finished"),
        # Finds what a dead worker left without reading the finished ones.
        Index("ix_task_open", "owner", sqlite_where=text("finished_at IS NULL"), postgresql_where=text("finished_at IS NULL")),
    )


class ExecutionRow(Base):
    """A task on one host, and where it stands: the row of truth."""

    __tablename__ = "execution"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id", ondelete="CASCADE"))
    host: Mapped[str]
    wave: Mapped[int] = mapped_column(server_default="1")
    state: Mapped[str] = mapped_column(server_default=ExecutionState.PENDING.value)
    epoch: Mapped[int] = mapped_column(server_default="0")  # every claim adds one; a write names the one it knows
    attempt_id: Mapped[int | None]  # the current attempt
    exit_code: Mapped[int | None]
    error: Mapped[str | None]
    started_at: Mapped[float | None] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)

    __table_args__ = (
        UniqueConstraint("task_id", "host"),
        _one_of("state", ExecutionState),
        CheckConstraint("started_at IS NULL OR state NOT IN ('pending', 'queued', 'unreachable')", name="unstarted_has_no_start"),
        CheckConstraint(
            "started_at IS NOT NULL OR state NOT IN ('running', 'succeeded', 'failed', 'timed_out', 'lost')", name="started_has_start"
        ),
        CheckConstraint("(finished_at IS NULL) = (state IN ('pending', 'queued', 'running'))", name="final_has_finished"),
        CheckConstraint("(exit_code IS NOT NULL) = (state IN ('succeeded', 'failed'))", name="exit_code_when_ended_by_itself"),
        # Finds the lost ones of which an agent may still tell.
        Index("ix_execution_lost", "finished_at", sqlite_where=text("state = 'lost'"), postgresql_where=text("state = 'lost'")),
        # Counts what runs on a host, whatever the number of its executions in the past.
        Index("ix_execution_running", "host", sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'")),
    )


class AttemptRow(Base):
    """One try at an execution. All are kept."""

    __tablename__ = "attempt"

    id: Mapped[int] = mapped_column(primary_key=True)
    execution_id: Mapped[int] = mapped_column(ForeignKey("execution.id", ondelete="CASCADE"))
    number: Mapped[int]
    uuid: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    owner: Mapped[str]
    executor: Mapped[str | None]  # of one that has started
    epoch: Mapped[int]
    state: Mapped[str]
    exit_code: Mapped[int | None]
    error: Mapped[str | None]
    queued_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)
    stdout_cut: Mapped[int] = mapped_column(BigInteger, server_default="0")  # bytes left out between head and tail
    stderr_cut: Mapped[int] = mapped_column(BigInteger, server_default="0")
    masked: Mapped[bool] = mapped_column(Boolean, server_default="0")  # a secret was: what is stored is not as long as what the host has

    __table_args__ = (UniqueConstraint("execution_id", "number"), _one_of("state", ExecutionState))


class DurationRow(Base):
    """How many commands took at most `le` seconds, and longer than the next smaller one (durations.py)."""

    __tablename__ = "duration"

    executor: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    le: Mapped[float] = mapped_column(Float, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float] = mapped_column(Float)  # all of them together

    __table_args__ = (
        _one_of("executor", ExecutorKind),
        _one_of("state", ExecutionState),
        CheckConstraint("number > 0 AND seconds >= 0", name="not_negative"),
    )


class ApprovalRow(Base):
    """A question that a task put to people, and the answer; `who` is empty where nobody answered."""

    __tablename__ = "approval"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id", ondelete="CASCADE"))
    question: Mapped[str]
    asked_at: Mapped[float] = mapped_column(Float)
    answered_at: Mapped[float | None] = mapped_column(Float)
    approved: Mapped[bool | None] = mapped_column(Boolean)
    who: Mapped[str | None]
    why: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("(answered_at IS NULL) = (approved IS NULL)", name="answered_has_answer"),
        Index("ix_approval_task_id", "task_id"),
    )


class OutputRow(Base):
    """A piece of a stream: the head in pieces as it came, the tail at the end."""

    __tablename__ = "output"

    id: Mapped[int] = mapped_column(primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id", ondelete="CASCADE"))
    stream: Mapped[str]
    offset: Mapped[int] = mapped_column(BigInteger)  # bytes from the start of the stream
    data: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (UniqueConstraint("attempt_id", "stream", "offset"), _one_of("stream", Stream))


class JoinTokenRow(Base):
    """The right to join, so many times and until then, of whoever knows the token."""

    __tablename__ = "join_token"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)  # SHA-256
    uses: Mapped[int]  # that are left
    approves: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Float)
    created_by: Mapped[str]
    expires_at: Mapped[float] = mapped_column(Float)

    __table_args__ = (CheckConstraint("uses >= 0", name="uses_not_negative"),)


LIVING = text("state IN ('pending', 'approved')")  # who asks in these words is answered from the index of their names


class AgentRow(Base):
    """An agent: the host that it serves by its name, and the credential that makes it this one."""

    __tablename__ = "agent"

    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    name: Mapped[str]
    machine: Mapped[str]
    state: Mapped[str]
    digest: Mapped[str]  # SHA-256 of the credential
    generation: Mapped[int] = mapped_column(server_default="1")  # of the credential
    rotating: Mapped[bool] = mapped_column(Boolean, server_default="0")  # a new credential is wanted
    next_digest: Mapped[str | None]  # of the one that its agent has made, and not used yet
    former_digest: Mapped[str | None]  # of the one before: who brings it now is a copy
    copy_of: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))  # the agent whose identity it came with
    joined_at: Mapped[float] = mapped_column(Float)
    decided_at: Mapped[float | None] = mapped_column(Float)
    decided_by: Mapped[str | None]
    seen_at: Mapped[float | None] = mapped_column(Float)
    version: Mapped[str | None]
    boot: Mapped[str | None]
    is_online: Mapped[bool] = mapped_column(Boolean, server_default="0")
    turned_at: Mapped[float | None] = mapped_column(Float)  # when it last came or went
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    telemetry: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    changed: Mapped[int] = mapped_column(BigInteger)  # the bus's count when its state was last decided

    __table_args__ = (
        _one_of("state", AgentState),
        Index("ix_agent_living", "name", unique=True, sqlite_where=LIVING, postgresql_where=LIVING),
        Index("ix_agent_changed", "changed"),
    )


class DeliveryBodyRow(Base):
    """A command as it goes to agents: one row for all hosts of a task."""

    __tablename__ = "delivery_body"

    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    sealed: Mapped[bool] = mapped_column(Boolean)  # it holds secrets: neither it nor its output stands here in clear
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[float] = mapped_column(Float)


class DeliveryRow(Base):
    """An attempt on its way through an agent, from the worker that wants it until the worker has all of it."""

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(primary_key=True)  # also the order of delivery
    attempt: Mapped[str] = mapped_column(Uuid(as_uuid=False), unique=True)
    agent_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("agent.id"))
    body_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("delivery_body.id"))
    owner: Mapped[str]  # the worker
    state: Mapped[str]
    canceled: Mapped[bool] = mapped_column(Boolean, server_default="0")  # its end is wanted
    changed: Mapped[int] = mapped_column(BigInteger)  # the bus's count when it was last written
    queued_at: Mapped[float] = mapped_column(Float)
    stdout: Mapped[int] = mapped_column(BigInteger, server_default="0")  # bytes up to which the stream is stored
    stderr: Mapped[int] = mapped_column(BigInteger, server_default="0")
    exit_code: Mapped[int | None]
    ended: Mapped[str | None]  # why, where it did not end by itself
    error: Mapped[str | None]

    __table_args__ = (
        _one_of("state", DeliveryState),
        Index("ix_delivery_changed", "changed"),
        Index("ix_delivery_agent_id", "agent_id"),
        Index("ix_delivery_body_id", "body_id"),
        {"sqlite_autoincrement": True},
    )


class DeliveryOutputRow(Base):
    """A piece of what an agent has reported. The ids only grow, so that a reader goes on where it was."""

    __tablename__ = "delivery_output"

    id: Mapped[int] = mapped_column(primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id", ondelete="CASCADE"))
    stream: Mapped[str]
    offset: Mapped[int] = mapped_column(BigInteger)  # bytes from the start of the stream
    gap: Mapped[int] = mapped_column(BigInteger)  # bytes right before it that the host does not have any more
    data: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (UniqueConstraint("delivery_id", "stream", "offset"), _one_of("stream", Stream), {"sqlite_autoincrement": True})


class NewsRow(Base):
    """Something that Prefect is to be told of, until a worker has told it (news.py)."""

    __tablename__ = "news"

    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    at: Mapped[float] = mapped_column(Float)
    kind: Mapped[str]
    about: Mapped[list[str]] = mapped_column(JSON)
    owner: Mapped[str | None]  # the worker that tells it
