"""Long lists in pages, and numbers about all of them: what the REST API asks.

Each page begins behind the last row of the one before, by its number or name: so it costs the same wherever it is, and nothing is shown
twice while rows come in.
"""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from models import reading, slices
from models.access import Access
from models.agents import Agent, listed
from models.records import Execution, TaskLine
from models.slices import Slice
from models.states import AgentState, ExecutionState, TaskState
from models.tables import AgentRow, ExecutionRow, TaskRow
from models.values import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which tasks; what is None does not matter. Times are seconds since the epoch."""

    state: TaskState | None = None
    host: str | None = None
    name: str | None = None  # a part of it
    created_by: str | None = None
    since: float | None = None
    until: float | None = None


class Listing:
    """The lists of one database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def tasks(self, wanted: Wanted, limit: int, before: int | None = None) -> list[TaskLine]:
        """The newest tasks first, older than the number `before`."""
        query = reading.LINE.where(*_conditions(wanted)).order_by(TaskRow.id.desc()).limit(limit)
        with self._access.reading() as connection:
            rows = connection.execute(query if before is None else query.where(TaskRow.id < before))
            return [TaskLine._make(row) for row in rows]

    def executions(self, task_id: int, states: Collection[ExecutionState], limit: int, after: int = 0) -> list[Execution]:
        """The executions of a task in its order, behind the one of the id `after`; with `states`, those in one of them."""
        chosen = [ExecutionRow.id > after, *([ExecutionRow.state.in_(states)] if states else [])]
        with self._access.reading() as connection:
            return reading.executions_where(connection, task_id, chosen, limit)

    def ended(self, task_id: int, since: float, limit: int) -> list[Execution]:
        """The executions of a task that ended at that time or later, the first one first."""
        with self._access.reading() as connection:
            return reading.ended_since(connection, task_id, since, limit)

    def agents(self, states: Collection[AgentState], limit: int, name: str = "", agent: uuid.UUID | None = None) -> list[Agent]:
        """The agents in these states by name and id: behind this one, or behind all of that name, which several may have had."""
        behind = AgentRow.name > name
        if agent is not None:
            behind = or_(behind, and_(AgentRow.name == name, AgentRow.id > str(agent)))
        with self._access.reading() as connection:
            return listed(connection, (AgentRow.state.in_(states), behind), limit)

    def output(self, attempt_id: int, stream: Stream, offset: int, limit: int) -> Slice:
        """A part of a stream."""
        with self._access.reading() as connection:
            return slices.part(connection, attempt_id, stream, offset, limit)

    def task_counts(self, since: float) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """How many tasks that were created since then are in each state, and how many of their executions."""
        with self._access.reading() as connection:
            tasks = _by_state(connection, _TASKS.where(TaskRow.created_at >= since))
            sums = connection.execute(_EXECUTIONS.where(TaskRow.created_at >= since)).one()
        return _filled(tasks, TaskState), {state.value: getattr(sums, state.value) or 0 for state in ExecutionState}

    def agent_counts(self) -> Mapping[str, int]:
        """How many agents are in each state."""
        with self._access.reading() as connection:
            return _filled(_by_state(connection, _AGENTS), AgentState)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.state is not None:
        conditions.append(TaskRow.state == wanted.state)
    if wanted.host is not None:
        conditions.append(select(ExecutionRow.id).where(ExecutionRow.task_id == TaskRow.id, ExecutionRow.host == wanted.host).exists())
    if wanted.name is not None:
        conditions.append(TaskRow.name.contains(wanted.name, autoescape=True))
    if wanted.created_by is not None:
        conditions.append(TaskRow.created_by == wanted.created_by)
    if wanted.since is not None:
        conditions.append(TaskRow.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(TaskRow.created_at < wanted.until)
    return conditions


def _by_state(connection: Connection, query: Select[tuple[str, int]]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query)}


def _filled(counts: dict[str, int], states: type[TaskState] | type[AgentState]) -> Mapping[str, int]:
    return dict.fromkeys((state.value for state in states), 0) | counts


_TASKS: Select[tuple[str, int]] = select(TaskRow.state, func.count()).group_by(TaskRow.state)
_EXECUTIONS = select(*(func.sum(TaskRow.__table__.c[state.value]).label(state.value) for state in ExecutionState))
_AGENTS: Select[tuple[str, int]] = select(AgentRow.state, func.count()).group_by(AgentRow.state)
