"""The bus as the store sees it: what a dead worker left to agents, and what nobody waits for any more."""

import time
import uuid
from collections import Counter

import pytest

from models import figures
from models.access import Access
from models.agents import Agents
from models.audit import Actor
from models.deliveries import Body, Deliveries, Go, Post, Withdraw
from models.exchange import Exchange, Seen
from models.presence import LIMITS, presence
from models.records import Claim
from models.reports import Report
from models.states import AgentState, DeliveryState, ExecutionState
from models.store import Store
from models.values import ExecutorKind, OnDisconnect, Stream
from tests.models.conftest import explain
from tests.models.test_store import OWNER, spec, start, states

TESTS = Actor("tests", "tests")

BODY = Body(uuid.uuid4(), b"{}", sealed=False)


@pytest.fixture
def agent(access: Access) -> uuid.UUID:
    agents = Agents(access)
    token = agents.make_token(seconds=60, uses=1, approves=True, by=TESTS)
    return agents.join(token, name="agent1", machine="m", version="1", facts={}).id


@pytest.fixture
def exchange(access: Access) -> Exchange:
    return Exchange(access, lambda data: data[::-1], lambda data: data[::-1])


def running(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> tuple[int, Claim]:
    """A task that ends with its connection, running on a host with an agent and on one without."""
    task = store.open_task(spec("agent1", "ssh1", on_disconnect=OnDisconnect.END), OWNER)
    of_agent, of_ssh = store.claim(task.id, OWNER)
    deliveries = Deliveries(access, OWNER)
    assert deliveries.apply([Post(of_agent.attempt.id, "agent1", BODY)]) == [True]
    exchange.take([Report(agent, held=[of_agent.attempt.id])])
    assert start(store, of_agent, ExecutorKind.AGENT)
    assert start(store, of_ssh)
    assert deliveries.apply([Go(of_agent.attempt.id)]) == [True]
    return task.id, of_agent


def test_what_agents_run_is_taken_over_whatever_the_task_says(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    task, of_agent = running(store, access, exchange, agent)
    assert [open_task.is_durable for open_task in store.open_tasks(OWNER)] == [True]
    (taken,) = store.claim(task, "machine:home:two")
    assert (taken.host, taken.attempt.id, taken.offsets) == ("agent1", of_agent.attempt.id, dict.fromkeys(Stream, 0))
    assert states(store, task) == {"agent1": ExecutionState.RUNNING, "ssh1": ExecutionState.LOST}
    assert store.recount(task) == store.task(task).counts


def test_only_what_was_held_can_go_and_what_goes_cannot_be_taken_back(access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    deliveries = Deliveries(access, OWNER)
    one, other, nobody = (uuid.uuid4() for _ in range(3))
    assert deliveries.apply([Post(one, "agent1", BODY), Post(other, "agent1", BODY), Post(nobody, "agent2", BODY)]) == [True, True, False]
    assert deliveries.apply([Go(one)]) == [False]
    exchange.take([Report(agent, held=[one])])
    assert deliveries.apply([Go(one), Withdraw(one), Withdraw(other), Go(other)]) == [True, False, True, False]
    assert Deliveries(access, "machine:home:two").apply([Withdraw(one)]) == [False], "it belongs to another worker"


def test_the_agent_is_the_one_of_the_hosts_address_or_else_of_its_name(access: Access, agent: uuid.UUID) -> None:
    deliveries = Deliveries(access, OWNER)

    def post(address: str, name: str) -> list[bool]:
        return deliveries.apply([Post(uuid.uuid4(), address, BODY, otherwise=name)])

    assert [post("agent1", "web1"), post("10.0.0.1", "agent1"), post("10.0.0.1", "web1")] == [[True], [True], [False]]


def test_what_a_forgotten_worker_queued_is_closed_and_removed(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    for owner in (OWNER, "machine:home:two"):
        store.take_lease(owner, 60)
        Deliveries(access, owner).apply([Post(uuid.uuid4(), "agent1", BODY)])
    store.take_over(OWNER, "machine:home:two", certainly=True)
    exchange.sweep()
    _, orders = exchange.changes()
    assert [order.state for order in orders] == [DeliveryState.QUEUED] * 2, "somebody may still take it over"
    store.forget_worker(OWNER)
    exchange.sweep()
    _, orders = exchange.changes()
    assert [order.state for order in orders] == [DeliveryState.CLOSED]
    exchange.remove(orders)
    assert len(Exchange(access, bytes, bytes).changes()[1]) == 1


def test_every_decision_about_an_agent_is_seen_once(access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    assert [(found.id, found.state) for found in exchange.changes()[0]] == [(agent, AgentState.APPROVED)]
    Agents(access).decide(["agent1"], AgentState.REVOKED, TESTS)
    assert [found.state for found in exchange.changes()[0]] == [AgentState.REVOKED]
    assert exchange.changes()[0] == []
    assert Deliveries(access, OWNER).apply([Post(uuid.uuid4(), "agent1", BODY)]) == [False]


def test_what_the_database_tells_at_any_time(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    agents = Agents(access)
    token = agents.make_token(seconds=60, uses=100, approves=True, by=TESTS)
    ages = [ago for _, seconds in LIMITS for ago in (seconds - 5, seconds + 5)]
    seen = {agents.join(token, name=f"age{ago}", machine="m", version="1", facts={}).id: ago for ago in ages}
    exchange.saw([Seen(one, ago, "b", "1", None, None) for one, ago in seen.items()])
    waiting = agents.make_token(seconds=60, uses=1, approves=False, by=TESTS)
    agents.join(waiting, name="waits", machine="m", version="1", facts={})
    running(store, access, exchange, agent)
    Deliveries(access, OWNER).apply([Post(uuid.uuid4(), "agent1", BODY)])
    ended = store.open_task(spec("h1"), OWNER)
    store.close_task(ended.id, canceled=True, reason="enough")
    told = figures.read(access)
    now = time.time()
    by_hand = Counter(presence(one.seen_at, now).value for one in agents.all([AgentState.APPROVED])) + Counter({figures.PENDING: 1})
    assert told.agents == by_hand == {"online": 1, "stale": 2, "offline": 1, "never seen": 1, "pending": 1}
    assert {state: number for state, number in told.deliveries.items() if number} == {"queued": 1, "go": 1}
    assert {state: number for state, number in told.executions.items() if number} == {"running": 2}, "what has ended is not told"
    assert told.executions_running == {"agent": 1, "ssh": 1, "local": 0}
    assert 0 <= told.oldest < 60


def test_what_has_ended_is_not_read_for_it(access: Access) -> None:
    for query, index in ((figures.COUNTERS, "ix_task_open"), (figures.RUNNING, "ix_execution_running")):
        plan = explain(access, query)
        assert any(index in line for line in plan), plan
        if access.engine.dialect.name == "sqlite":
            assert all(line.startswith("SEARCH") or index in line or "TEMP" in line for line in plan), plan
        else:
            assert not any("Seq Scan" in line for line in plan), plan
