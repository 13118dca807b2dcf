"""The hub's end of the bus: what workers want of agents, and what agents report."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Float, bindparam, delete, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from models import agents, late, news, reports
from models.access import Access, tick
from models.agents import Agent
from models.clock import Clock
from models.news import Kind
from models.reports import Receipt, Report
from models.states import AgentState, DeliveryState
from models.tables import AgentRow, DeliveryBodyRow, DeliveryRow, WorkerRow, spelled

_BODY_KEPT = 60.0  # seconds that a body stays which no delivery needs: its next deliveries may be on their way
_IDS = 5000  # in one statement
_LATE = 7 * 86400.0  # seconds that a run whose worker gave it up may still be told of


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker wants of one attempt."""

    id: int
    attempt: uuid.UUID
    agent: uuid.UUID
    body: uuid.UUID
    state: DeliveryState  # queued, go or closed; running where it is to be canceled
    canceled: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """The last that was heard of an agent."""

    agent: uuid.UUID
    ago: float  # seconds
    boot: str
    version: str
    telemetry: Mapping[str, Any] | None
    facts: Mapping[str, Any] | None  # where they have changed


class Exchange:
    """One hub's view of the bus. `changes` is called by one thread at a time."""

    def __init__(self, access: Access, seal: Callable[[bytes], bytes], unseal: Callable[[bytes], bytes]) -> None:
        self._access = access
        self._seal = seal
        self._unseal = unseal
        self._seen = -1

    def changes(self) -> tuple[list[Agent], list[Order]]:
        """The agents about which something was decided, and the orders that came, since the last call; all at the first one."""
        with self._access.reading() as connection:
            decided = agents.changed(connection, self._seen)
            rows = connection.execute(_ORDERS, {"seen": self._seen}).all()
        rows = sorted(rows, key=itemgetter(0))  # here: who asked SQLite for that order had it read all that there are
        self._seen = max([self._seen, *(count for count, _ in decided), *(row.changed for row in rows)])
        orders = [
            Order(row.id, uuid.UUID(row.attempt), uuid.UUID(row.agent_id), uuid.UUID(row.body_id), DeliveryState(row.state), row.canceled)
            for row in rows
        ]
        return [agent for _, agent in decided], orders

    def body(self, body: uuid.UUID) -> bytes:
        """A command as agents get it; empty when its deliveries are gone."""
        with self._access.reading() as connection:
            row = connection.execute(_BODY, {"which": str(body)}).one_or_none()
        if row is None:
            return b""
        return self._unseal(row.data) if row.sealed else bytes(row.data)

    def take(self, said: Sequence[Report]) -> list[Receipt]:
        """Store what agents report, in one transaction."""
        with self._access.writing() as connection:
            return reports.take(connection, tick(connection), said, self._seal)

    def remove(self, orders: Sequence[Order]) -> None:
        """Remove closed deliveries."""
        with self._access.writing() as connection:
            connection.execute(_REMOVE, [{"which": order.id} for order in orders])

    def saw(self, seen: Sequence[Seen]) -> None:
        """Write down when agents were heard of."""
        rows = [
            {
                "which": str(one.agent),
                "ago": one.ago,
                "said_boot": one.boot,
                "said_version": one.version,
                "said": dict(one.telemetry or {}),
            }
            for one in seen
        ]
        facts = [{"which": str(one.agent), "said": dict(one.facts)} for one in seen if one.facts is not None]
        with self._access.writing() as connection:
            if rows:
                connection.execute(_SAW, rows)
            if facts:
                connection.execute(_FACTS, facts)

    def turn(self, came: Sequence[uuid.UUID], silent: Sequence[uuid.UUID], seconds: float) -> tuple[list[str], list[str]]:
        """Note which agents came, and which of the silent ones no hub has heard of for so long; the names of those that are news."""
        with self._access.writing() as connection:
            here, gone = _turned(connection, _CAME, came), _turned(connection, _WENT, silent, seconds=seconds)
            news.write(connection, Kind.ONLINE, here)
            news.write(connection, Kind.OFFLINE, gone)
            return here, gone

    def correct(self, limit: int) -> bool:
        """Give lost executions the outcomes that agents told after all, with at most so many bytes of a stream; whether there is more."""
        with self._access.reading() as connection:
            if not late.is_any(connection):
                return False
        with self._access.writing() as connection:
            return late.correct(connection, tick(connection), limit)

    def sweep(self) -> None:
        """Close what nobody waits for any more, and remove commands that nobody needs.

        A worker's row is there until nothing of it is left to take over (`Store.forget_worker`).
        """
        with self._access.writing() as connection:
            connection.execute(_ABANDON, {"now": tick(connection)})
            connection.execute(_USELESS)
            news.sweep(connection)


def _turned(connection: Connection, statement: ReturningUpdate[tuple[str]], agents: Sequence[uuid.UUID], **values: float) -> list[str]:
    names: list[str] = []
    for begin in range(0, len(agents), _IDS):
        some = [str(agent) for agent in agents[begin : begin + _IDS]]
        names += connection.scalars(statement, {"some": some, **values})
    return sorted(names)


_ORDERS = (
    select(
        DeliveryRow.id,
        spelled(DeliveryRow.attempt),
        spelled(DeliveryRow.agent_id),
        spelled(DeliveryRow.body_id),
        DeliveryRow.state,
        DeliveryRow.canceled,
        DeliveryRow.changed,
    )
    .where(DeliveryRow.changed > bindparam("seen"))
    .where(
        or_(
            DeliveryRow.state.in_((DeliveryState.QUEUED, DeliveryState.GO, DeliveryState.CLOSED)),
            DeliveryRow.canceled & (DeliveryRow.state == DeliveryState.RUNNING),
        )
    )
)
_BODY = select(DeliveryBodyRow.sealed, DeliveryBodyRow.data).where(DeliveryBodyRow.id == bindparam("which"))
_REMOVE = delete(DeliveryRow).where(DeliveryRow.id == bindparam("which"), DeliveryRow.state == DeliveryState.CLOSED)
_SAW = (
    update(AgentRow)
    .where(AgentRow.id == bindparam("which"))
    .values(
        seen_at=Clock() - bindparam("ago", type_=Float),
        boot=bindparam("said_boot"),
        version=bindparam("said_version"),
        telemetry=bindparam("said"),
    )
)
_TURNED = update(AgentRow).where(AgentRow.id.in_(bindparam("some", expanding=True)), AgentRow.state == AgentState.APPROVED)
_CAME = _TURNED.where(~AgentRow.is_online).values(is_online=True, turned_at=Clock()).returning(AgentRow.name)
_WENT = (
    _TURNED.where(AgentRow.is_online, AgentRow.seen_at < Clock() - bindparam("seconds", type_=Float))
    .values(is_online=False, turned_at=AgentRow.seen_at)
    .returning(AgentRow.name)
)
_FACTS = update(AgentRow).where(AgentRow.id == bindparam("which")).values(facts=bindparam("said"))
_ABANDON = (
    update(DeliveryRow)
    .where(DeliveryRow.owner.not_in(select(WorkerRow.owner)), DeliveryRow.state != DeliveryState.CLOSED)
    .where(
        or_(
            DeliveryRow.state.in_((DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.REFUSED)),
            DeliveryRow.queued_at < Clock() - _LATE,
        )
    )
    .values(state=DeliveryState.CLOSED, changed=bindparam("now"))
)
_USELESS = delete(DeliveryBodyRow).where(
    DeliveryBodyRow.created_at < Clock() - _BODY_KEPT,
    ~select(DeliveryRow.id).where(DeliveryRow.body_id == DeliveryBodyRow.id).exists(),
)
