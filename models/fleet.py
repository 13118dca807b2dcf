"""The fleet as people look at it: the hosts of the inventory and the agents, found by name, group, tag or fact."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import String, cast, select

from models import agents
from models.access import Access
from models.agents import Agent
from models.current import CurrentInventory
from models.errors import FleetflowError
from models.inventory import Inventory
from models.names import join
from models.presence import Presence, presence
from models.ranges import natural
from models.states import AgentState
from models.tables import LIVING, AgentRow
from models.values import ExecutorKind, Host

WORDS = 5  # of a search, at most

_natural = lru_cache(maxsize=50_000)(natural)


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent in a list."""

    is_pending: bool
    seen_at: float | None  # seconds since the epoch
    version: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """A host, an agent, or both."""

    name: str
    host: Host | None  # None: an agent that the inventory does not know
    seat: Seat | None
    state: str  # `pending`, the presence of its agent, or `no agent`

    @property
    def reach(self) -> str:
        """How a command gets there: `ssh root@10.0.0.7:22 by gate1`; `agent`."""
        if self.host is None:
            return "not in the inventory"
        executor = self.host.executor or ExecutorKind.SSH
        if executor is not ExecutorKind.SSH:
            return f"{executor} {self.host.address or ''}".rstrip()
        jump = f" by {self.host.jump}" if self.host.jump else ""
        return f"{executor} {join(self.host.address or self.name, self.host.user, self.host.port)}{jump}"


PENDING, NO_AGENT = AgentState.PENDING.value, "no agent"
STATES = (PENDING, Presence.OFFLINE.value, Presence.STALE.value, Presence.NEVER.value, Presence.ONLINE.value, NO_AGENT)


class Fleet:
    """Asks the inventory and the agents. For any thread."""

    def __init__(self, current: CurrentInventory, access: Access) -> None:
        self._current = current
        self._access = access
        self._hosts: Mapping[str, Host] = {}
        self._inventory = Inventory({}, {})
        self._error = ""

    def trouble(self) -> str:
        """Why the inventory cannot be read, in one line; empty where it can. Then what it said before still counts."""
        self._read()
        return self._error

    def members(self, search: str, now: float) -> list[Member]:
        """Those that match every word of a search, in natural order of their names.

        A word is `@group`, `key=value` of a tag or a fact (its beginning is enough), or a part of a name, group, tag or fact.
        """
        hosts, seats = self._read(), self._seats()
        names: Iterable[str] = hosts
        if any(name not in hosts for name in seats):
            names = sorted({*hosts, *seats}, key=_natural)
        for word in search.split()[:WORDS]:
            facts = self._with_fact(word)
            names = [name for name in names if name in facts or _matches(hosts.get(name), name, word)]
        return [_member(name, hosts.get(name), seats.get(name), now) for name in names]

    def member(self, name: str, now: float) -> tuple[Member, Agent | None] | None:
        """One of them, with what its agent has told; None where nobody knows the name."""
        host = self._read().get(name)
        with self._access.reading() as connection:
            agent = agents.living(connection, name)
        if host is None and agent is None:
            return None
        seat = Seat(agent.state is AgentState.PENDING, agent.seen_at, agent.version) if agent else None
        return _member(name, host, seat, now), agent

    def source(self, name: str) -> str:
        """Where the inventory has a host from."""
        return self._inventory.source(name)

    def facts(self, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What the agents of these names tell of their hosts."""
        with self._access.reading() as connection:
            return {row.name: row.facts or {} for row in connection.execute(_FACTS.where(AgentRow.name.in_(names)))}

    def _read(self) -> Mapping[str, Host]:
        try:
            now = self._current.get()
            if now is not self._inventory:
                self._hosts, self._inventory = {host.name: host for host in now.known()}, now
            self._error = ""
        except FleetflowError as error:
            self._error = str(error)
        return self._hosts

    def _seats(self) -> dict[str, Seat]:
        with self._access.reading() as connection:
            return {row.name: Seat(row.state == AgentState.PENDING, row.seen_at, row.version) for row in connection.execute(_SEATS)}

    def _with_fact(self, word: str) -> set[str]:
        """The names of the agents one of whose facts a word fits; the database only keeps away those that are far from it."""
        if word.startswith("@"):
            return set()
        near = _FACTS.where(cast(AgentRow.facts, String).icontains(json.dumps(word.partition("=")[2] or word)[1:-1], autoescape=True))
        with self._access.reading() as connection:
            return {row.name for row in connection.execute(near) if _fits(row.facts or {}, word.lower())}


# The words of the index's own condition, for only so it is used.
_SEATS = select(AgentRow.name, AgentRow.state, AgentRow.seen_at, AgentRow.version).where(LIVING)
_FACTS = select(AgentRow.name, AgentRow.facts).where(LIVING)


def _member(name: str, host: Host | None, seat: Seat | None, now: float) -> Member:
    if seat is None:
        return Member(name, host, seat, NO_AGENT)
    return Member(name, host, seat, PENDING if seat.is_pending else presence(seat.seen_at, now).value)


def _fits(facts: Mapping[str, Any], word: str) -> bool:
    key, is_pair, value = word.partition("=")
    if is_pair:
        return key in facts and str(facts[key]).lower().startswith(value)
    return any(word in str(said).lower() for said in facts.values())


def _matches(host: Host | None, name: str, word: str) -> bool:
    if word.startswith("@"):
        return host is not None and word[1:] in host.groups
    key, is_pair, value = word.lower().partition("=")
    if is_pair:
        return host is not None and any(key == tag.lower() and said.lower().startswith(value) for tag, said in host.tags.items())
    return any(word.lower() in said.lower() for said in _words(host, name))


def _words(host: Host | None, name: str) -> Iterator[str]:
    yield name
    if host is not None:
        yield host.address or ""
        yield from host.groups
        yield from (f"{tag}={said}" for tag, said in host.tags.items())
