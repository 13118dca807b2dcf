"""Enrolment: join tokens, the agents that came with them, and what people have decided about these.

A token or a credential is known here by its SHA-256 alone. A name belongs to one agent at a time, and passes nothing on: whoever
joins under it later is another agent.
"""

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, insert, null, select, update

from models import audit, copies, renewal
from models.access import Access, tick
from models.audit import Actor
from models.copies import Copy
from models.errors import AgentStateError, JoinError, NameTakenError, NotFoundError
from models.ranges import fold
from models.states import AgentState
from models.tables import LIVING, AgentRow, JoinTokenRow

_MOVES: Mapping[AgentState, frozenset[AgentState]] = {
    AgentState.PENDING: frozenset({AgentState.APPROVED, AgentState.REJECTED}),
    AgentState.APPROVED: frozenset({AgentState.REVOKED}),
    AgentState.REJECTED: frozenset(),
    AgentState.REVOKED: frozenset(),
}
_ACTIONS = {AgentState.APPROVED: "agent.approve", AgentState.REJECTED: "agent.reject", AgentState.REVOKED: "agent.revoke"}
AT_JOIN = "its join token"  # has approved the agent
_TOKENS_KEPT = 86400.0  # seconds after their expiry


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """An agent as stored."""

    id: uuid.UUID
    name: str
    state: AgentState
    machine: str
    generation: int
    digest: str = field(repr=False)
    next_digest: str | None = field(repr=False)
    former_digest: str | None = field(repr=False)
    rotating: bool
    copy_of: uuid.UUID | None
    joined_at: float
    decided_by: str | None
    seen_at: float | None
    boot: str | None
    is_online: bool
    turned_at: float | None  # when it last came or went
    version: str | None
    facts: Mapping[str, Any]
    telemetry: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """What a host tells of the agent that it has made; its credential never leaves it."""

    id: uuid.UUID
    digest: str
    machine: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """What an agent is told that has joined. The credential is nowhere else."""

    id: uuid.UUID
    credential: str = field(repr=False)
    state: AgentState
    generation: int = 1


def digest(secret: str) -> str:
    """What is stored of a token or credential: it is random, and long enough for a plain hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Agents:
    """All agents of one database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def make_token(self, *, seconds: float, uses: int, approves: bool, by: Actor) -> str:
        """A new join token: good for so many agents and so long; with `approves` they need nobody's approval."""
        token = secrets.token_hex(24)  # no sign at its front that a command line would take for an option
        now = time.time()
        values = {"digest": digest(token), "uses": uses, "approves": approves, "created_at": now, "created_by": by.who}
        with self._access.writing() as connection:
            connection.execute(delete(JoinTokenRow).where(JoinTokenRow.expires_at < now - _TOKENS_KEPT))
            connection.execute(insert(JoinTokenRow), values | {"expires_at": now + seconds})
            audit.write(connection, by, "agent.token", f"{uses} uses", detail="approves" if approves else "")
        return token

    def join(self, token: str, *, name: str, machine: str, version: str, facts: Mapping[str, Any]) -> Joined:
        """Make a new agent, for one use of the token; raises `JoinError`. The same machine may join anew: its former agent is shut out."""
        joined_at = time.time()
        credential = secrets.token_hex(32)
        with self._access.writing() as connection:
            approves = connection.scalar(_USE, {"which": digest(token), "now": joined_at})
            if approves is None:
                raise JoinError
            now = tick(connection)
            self._replace(connection, name, machine, now)
            state = AgentState.APPROVED if approves else AgentState.PENDING
            joined = Joined(id=uuid.uuid4(), credential=credential, state=state)
            values = {
                "id": str(joined.id),
                "name": name,
                "machine": machine,
                "state": state,
                "digest": digest(credential),
                "joined_at": joined_at,
                "decided_at": joined_at if approves else None,
                "decided_by": AT_JOIN if approves else None,
                "version": version,
                "facts": dict(facts),
                "changed": now,
            }
            connection.execute(insert(AgentRow), values)
            audit.write(connection, Actor(f"agent {name}", "join token"), "agent.join", name, detail=state)
        return joined

    def install(self, hosts: Mapping[str, Enrolled], by: Actor) -> dict[str, str]:
        """Make approved agents of what hosts told, by the names they are to have; returns why that was not possible, by name.

        An agent that is known already stays as it is: its host has got a newer program.
        """
        refused: dict[str, str] = {}
        with self._access.writing() as connection:
            now = tick(connection)
            known = {row.id: row for row in connection.execute(_BY_ID, {"ids": [str(host.id) for host in hosts.values()]})}
            for name, host in hosts.items():
                if former := known.get(str(host.id)):
                    if reason := _why_not(former, name, host):
                        refused[name] = reason
                    continue
                try:
                    self._replace(connection, name, host.machine, now)
                except NameTakenError as error:
                    refused[name] = str(error)
                    continue
                connection.execute(insert(AgentRow), _installed(name, host, by, now))
            if done := [name for name in hosts if name not in refused]:
                audit.write(connection, by, "agent.install", fold(done))
        return refused

    def _replace(self, connection: Connection, name: str, machine: str, now: int) -> None:
        former = connection.execute(_LIVING_ONE, {"names": [name]}).one_or_none()
        if former is None:
            return
        if former.machine != machine:
            raise NameTakenError(name)
        ended = AgentState.REVOKED if former.state == AgentState.APPROVED else AgentState.REJECTED
        connection.execute(
            _DECIDE, {"which": former.id, "new": ended, "at": time.time(), "by": "its own machine, which joined anew", "now": now}
        )

    def decide(self, names: Sequence[str], state: AgentState, by: Actor) -> list[Agent]:
        """Move the agents of these names, all or none of them; raises `NotFoundError` and `AgentStateError`."""
        with self._access.writing() as connection:
            now = tick(connection)
            found = {row.name: row for row in connection.execute(_LIVING_ONE, {"names": list(names)})}
            for name in names:
                if name not in found:
                    raise NotFoundError("agent", name)
                if state not in _MOVES[AgentState(found[name].state)]:
                    raise AgentStateError(name, found[name].state, state)
            moves = [{"which": found[name].id, "new": state, "at": time.time(), "by": by.who, "now": now} for name in dict.fromkeys(names)]
            connection.execute(_DECIDE, moves)
            if state is AgentState.APPROVED:
                renewal.want(connection, now, [name for name in names if found[name].copy_of])  # the one it came with is another's
            audit.write(connection, by, _ACTIONS[state], fold(dict.fromkeys(names)))
            rows = connection.execute(_AGENTS.where(AgentRow.id.in_([move["which"] for move in moves])))
            return [_agent(row) for row in rows]

    def rotate(self, names: Sequence[str], by: Actor) -> None:
        """Have these agents take new credentials, all or none of them; raises `NotFoundError` and `AgentStateError`."""
        with self._access.writing() as connection:
            found = {row.name: row.state for row in connection.execute(_LIVING_ONE, {"names": list(names)})}
            for name in names:
                if name not in found:
                    raise NotFoundError("agent", name)
                if found[name] != AgentState.APPROVED:
                    raise AgentStateError(name, found[name], "rotated")
            renewal.want(connection, tick(connection), names)
            audit.write(connection, by, "agent.rotate", fold(dict.fromkeys(names)))

    def offer(self, agent: uuid.UUID, offered: str) -> bool:
        """An agent has made the credential with this digest; whether it may use it."""
        with self._access.writing() as connection:
            return renewal.offer(connection, tick(connection), agent, offered)

    def promote(self, agent: uuid.UUID, used: str) -> None:
        """An agent has used the credential that it may: no other is good from now on."""
        with self._access.writing() as connection:
            renewal.promote(connection, tick(connection), agent, used)

    def hold(self, copy: Copy) -> bool:
        """Note a copy of an agent, which waits for its approval; False when too many do."""
        with self._access.writing() as connection:
            return copies.hold(connection, tick(connection), copy)

    def dismiss(self, names: Sequence[str], by: Actor) -> None:
        """Shut out those agents of these names that there are."""
        with self._access.reading() as connection:
            found = connection.execute(_LIVING_ONE, {"names": list(names)}).all()
        for old, new in ((AgentState.APPROVED, AgentState.REVOKED), (AgentState.PENDING, AgentState.REJECTED)):
            if some := [row.name for row in found if row.state == old]:
                self.decide(some, new, by)

    def all(self, states: Iterable[AgentState] = AgentState) -> list[Agent]:
        """The agents in these states, by name and age."""
        with self._access.reading() as connection:
            rows = connection.execute(_AGENTS.where(AgentRow.state.in_(list(states))).order_by(AgentRow.name, AgentRow.joined_at))
            return [_agent(row) for row in rows]


def listed(connection: Connection, chosen: Sequence[ColumnElement[bool]], limit: int) -> list[Agent]:
    """The first agents by name and id that fit."""
    return [_agent(row) for row in connection.execute(_AGENTS.where(*chosen).order_by(AgentRow.name, AgentRow.id).limit(limit))]


def living(connection: Connection, name: str) -> Agent | None:
    """The agent that has this name now."""
    row = connection.execute(_AGENTS.where(AgentRow.name == name, LIVING)).one_or_none()
    return _agent(row) if row else None


def changed(connection: Connection, seen: int) -> list[tuple[int, Agent]]:
    """The agents about which something was decided after the bus's count `seen`, each with its own count; without what they told."""
    return [(row.changed, _agent(row)) for row in connection.execute(_DECIDED, {"seen": seen})]


def _why_not(row: Row[Any], name: str, host: Enrolled) -> str | None:
    if row.name != name:
        return f"it is enrolled already, as {row.name}"
    if row.state != AgentState.APPROVED:
        return f"its agent was {row.state}: `fleetflow agent remove` forgets it, and `install` makes another"
    if row.digest != host.digest:
        return "its credential is not the one that is known here: `fleetflow agent remove` forgets it, and `install` makes another"
    return None


def _installed(name: str, host: Enrolled, by: Actor, now: int) -> dict[str, object]:
    at = time.time()
    row = {"id": str(host.id), "name": name, "machine": host.machine, "state": AgentState.APPROVED, "digest": host.digest}
    return row | {"joined_at": at, "decided_at": at, "decided_by": by.who, "version": host.version, "changed": now}


_BY_ID = select(AgentRow.id, AgentRow.name, AgentRow.state, AgentRow.digest).where(AgentRow.id.in_(bindparam("ids", expanding=True)))
_USE = (
    update(JoinTokenRow)
    .where(JoinTokenRow.digest == bindparam("which"), JoinTokenRow.uses > 0, JoinTokenRow.expires_at > bindparam("now"))
    .values(uses=JoinTokenRow.uses - 1)
    .returning(JoinTokenRow.approves)
)
_LIVING_ONE = select(AgentRow.id, AgentRow.name, AgentRow.machine, AgentRow.state, AgentRow.copy_of).where(
    AgentRow.name.in_(bindparam("names", expanding=True)), LIVING
)
_DECIDE = (
    update(AgentRow)
    .where(AgentRow.id == bindparam("which"))
    .values(state=bindparam("new"), decided_at=bindparam("at"), decided_by=bindparam("by"), changed=bindparam("now"))
)
_AGENTS = select(
    AgentRow.id,
    AgentRow.name,
    AgentRow.state,
    AgentRow.machine,
    AgentRow.generation,
    AgentRow.digest,
    AgentRow.next_digest,
    AgentRow.former_digest,
    AgentRow.rotating,
    AgentRow.copy_of,
    AgentRow.joined_at,
    AgentRow.decided_by,
    AgentRow.seen_at,
    AgentRow.boot,
    AgentRow.is_online,
    AgentRow.turned_at,
    AgentRow.version,
    AgentRow.facts,
    AgentRow.telemetry,
    AgentRow.changed,
)

_DECIDED = _AGENTS.with_only_columns(
    *(column for column in _AGENTS.selected_columns if column.key not in {"facts", "telemetry"}),
    null().label("facts"),
    null().label("telemetry"),
).where(AgentRow.changed > bindparam("seen"))


def _agent(row: Row[Any]) -> Agent:
    return Agent(
        id=uuid.UUID(row.id),
        name=row.name,
        state=AgentState(row.state),
        machine=row.machine,
        generation=row.generation,
        digest=row.digest,
        next_digest=row.next_digest,
        former_digest=row.former_digest,
        rotating=row.rotating,
        copy_of=uuid.UUID(row.copy_of) if row.copy_of else None,
        joined_at=row.joined_at,
        decided_by=row.decided_by,
        seen_at=row.seen_at,
        boot=row.boot,
        is_online=row.is_online,
        turned_at=row.turned_at,
        version=row.version,
        facts=row.facts or {},
        telemetry=row.telemetry or {},
    )
