"""What the database can tell at any time for little: no question here reads what has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, case, func, literal_column, select

from models import durations
from models.access import Access
from models.clock import Clock
from models.durations import Durations
from models.presence import LIMITS, Presence
from models.states import AgentState, DeliveryState, ExecutionState
from models.tables import AgentRow, AttemptRow, DeliveryRow, ExecutionRow, TaskRow
from models.values import ExecutorKind

PENDING = AgentState.PENDING.value


@dataclass(frozen=True, slots=True)
class Figures:
    """How many there are of what, by its state. Every state is there."""

    agents: Mapping[str, int]  # by presence, and those that wait for approval
    deliveries: Mapping[str, int]
    oldest: float  # seconds that the oldest queued delivery has waited
    executions: Mapping[str, int]  # of the tasks that have not ended
    executions_running: Mapping[str, int]  # by executor
    durations: Mapping[tuple[str, str], Durations]  # by executor and state


def read(access: Access) -> Figures:
    """One view of the database; raises `UnavailableError`."""
    with access.reading() as connection:
        counters = connection.execute(COUNTERS).one()
        return Figures(
            agents=_count(connection, _AGENTS, PENDING, *Presence),
            deliveries=_count(connection, _DELIVERIES, *DeliveryState),
            oldest=max(0.0, connection.scalar(_OLDEST) or 0.0),
            executions={state: int(number or 0) for state, number in zip(ExecutionState, counters, strict=True)},
            executions_running=_count(connection, RUNNING, *ExecutorKind),
            durations=durations.read(connection),
        )


def _count(connection: Connection, query: Select[Any], *keys: str) -> dict[str, int]:
    return dict.fromkeys(keys, 0) | {row[0]: row[1] for row in connection.execute(query)}


def _counted(what: Any, *where: Any) -> Select[Any]:
    return select(what, func.count()).where(*where).group_by(what)


_AGO = Clock() - AgentRow.seen_at
_PRESENCE = case(
    (AgentRow.state == AgentState.PENDING, PENDING),
    (AgentRow.seen_at.is_(None), Presence.NEVER.value),
    *((seconds > _AGO, found.value) for found, seconds in LIMITS),
    else_=Presence.OFFLINE.value,
)
_AGENTS = _counted(_PRESENCE, AgentRow.state.in_((AgentState.PENDING, AgentState.APPROVED)))
_DELIVERIES = _counted(DeliveryRow.state)
_OLDEST = select(Clock() - func.min(DeliveryRow.queued_at)).where(DeliveryRow.state == DeliveryState.QUEUED)
COUNTERS = select(*(func.sum(getattr(TaskRow, state)) for state in ExecutionState)).where(TaskRow.finished_at.is_(None))
# The state stands there as a word, for only so the index of running executions is used.
RUNNING = (
    _counted(AttemptRow.executor, ExecutionRow.state == literal_column("'running'"), AttemptRow.executor.is_not(None))
    .select_from(ExecutionRow)
    .join(AttemptRow, AttemptRow.id == ExecutionRow.attempt_id)
)
