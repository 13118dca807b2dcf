"""A result that comes after its execution was given up as lost."""

import time
import uuid
from collections.abc import Iterator

import pytest

from models import late
from models.access import Access
from models.agents import Agents
from models.deliveries import Body, Deliveries, Go, Post
from models.exchange import Exchange
from models.news import Kind, Newsroom
from models.records import Claim, Finished, Outcome, Piece, Printed
from models.reports import Ended, Refusal, Report
from models.reports import Printed as Told
from models.states import ExecutionState, TaskState
from models.store import Store
from models.values import Stream
from tests.models.conftest import explain
from tests.models.test_deliveries import TESTS
from tests.models.test_store import OWNER, spec, start

LIMIT = 1000
LOST = Outcome(state=ExecutionState.LOST, error="its agent was not seen for 600 s")


@pytest.fixture
def access(url: str) -> Iterator[Access]:
    access = Access.open(url)
    yield access
    access.close()


@pytest.fixture
def agent(access: Access) -> uuid.UUID:
    agents = Agents(access)
    return agents.join(agents.make_token(seconds=60, uses=1, approves=True, by=TESTS), name="agent1", machine="m", version="1", facts={}).id


@pytest.fixture
def exchange(access: Access) -> Exchange:
    return Exchange(access, lambda data: data[::-1], lambda data: data[::-1])


def lose(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID, *, sealed: bool = False) -> tuple[int, Claim]:
    """A task whose only host was lost after its first three bytes, and has ended."""
    task = store.open_task(spec("agent1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    deliveries = Deliveries(access, OWNER)
    deliveries.apply([Post(claim.attempt.id, "agent1", Body(uuid.uuid4(), b"{}", sealed=sealed))])
    exchange.take([Report(agent, held=[claim.attempt.id])])
    assert start(store, claim)
    deliveries.apply([Go(claim.attempt.id)])
    exchange.take([Report(agent, output=[Told(claim.attempt.id, Stream.STDOUT, 0, 0, b"one")])])
    pieces = (Piece(Stream.STDOUT, 0, b"one"),)
    assert store.write([Printed(claim, pieces), Finished(claim, time.time(), ExecutionState.RUNNING, LOST, (), {})]) == [True, True]
    assert store.close_task(task.id).state is TaskState.FAILED
    return task.id, claim


def end(exchange: Exchange, agent: uuid.UUID, claim: Claim, data: bytes, code: int | None = 0, ended: str | None = None) -> None:
    told = Told(claim.attempt.id, Stream.STDOUT, 0, 0, b"one" + data)
    exchange.take([Report(agent, output=[told], done=[Ended(claim.attempt.id, code, ended, None, 3 + len(data), 0)])])


@pytest.mark.parametrize(
    ("code", "ended", "state"),
    [
        (0, None, ExecutionState.SUCCEEDED),
        (3, None, ExecutionState.FAILED),
        (None, "timed_out", ExecutionState.TIMED_OUT),
        (None, "canceled", ExecutionState.CANCELED),
    ],
)
def test_an_end_that_comes_late_corrects_what_was_lost(
    store: Store, access: Access, exchange: Exchange, agent: uuid.UUID, code: int | None, ended: str | None, state: ExecutionState
) -> None:
    task, claim = lose(store, access, exchange, agent)
    assert not exchange.correct(LIMIT)
    assert store.task(task).counts[ExecutionState.LOST] == 1
    end(exchange, agent, claim, b" two", code, ended)
    assert exchange.correct(LIMIT) is False
    (execution,) = store.executions(task)
    assert (execution.state, execution.exit_code) == (state, code)
    assert b"".join(piece.data for piece in store.output(claim.attempt_id)) == b"one two"
    found = store.task(task)
    assert (found.state, found.counts) == (TaskState.FAILED, store.recount(task)), "the task's end stays, its counters move"
    assert found.counts[state] == 1
    _, orders = exchange.changes()
    assert [(order.attempt, order.state) for order in orders] == [(claim.attempt.id, "closed")], "the agent may forget it"
    assert [(news.kind, news.about) for news in Newsroom(access, "worker").take(9)] == [(Kind.CORRECTED, [str(task)])]


@pytest.mark.parametrize("why", ["rebooted", "killed", "gone"])
def test_what_the_host_cannot_tell_either_stays_lost(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID, why: str) -> None:
    task, claim = lose(store, access, exchange, agent)
    end(exchange, agent, claim, b"", None, why)
    exchange.correct(LIMIT)
    (execution,) = store.executions(task)
    assert (execution.state, execution.error) == (ExecutionState.LOST, LOST.error)
    assert [order.state for order in exchange.changes()[1]] == ["closed"]
    assert Newsroom(access, "worker").take(9) == []


def test_a_refusal_that_comes_late_proves_nothing_any_more(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    task = store.open_task(spec("agent1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    deliveries = Deliveries(access, OWNER)
    deliveries.apply([Post(claim.attempt.id, "agent1", Body(uuid.uuid4(), b"{}", sealed=False))])
    exchange.take([Report(agent, held=[claim.attempt.id])])
    assert start(store, claim)
    deliveries.apply([Go(claim.attempt.id)])
    store.write([Finished(claim, time.time(), ExecutionState.RUNNING, LOST, (), {})])
    exchange.take([Report(agent, refused=[Refusal(claim.attempt.id, "restarted", unknown=False)])])
    exchange.correct(LIMIT)
    assert [execution.state for execution in store.executions(task.id)] == [ExecutionState.LOST]
    assert [order.state for order in exchange.changes()[1]] == ["closed"]


def test_late_output_keeps_to_the_limit_and_what_is_left_out_is_counted(
    store: Store, access: Access, exchange: Exchange, agent: uuid.UUID
) -> None:
    task, claim = lose(store, access, exchange, agent)
    end(exchange, agent, claim, b"x" * 5000 + b"end")
    exchange.correct(LIMIT)
    (execution,) = store.executions(task)
    kept = store.output(claim.attempt_id)
    assert sum(len(piece.data) for piece in kept) == LIMIT
    assert execution.cut[Stream.STDOUT] == 5006 - LIMIT
    assert (kept[0].data, kept[-1].data[-3:], kept[-1].offset + len(kept[-1].data)) == (b"one", b"end", 5006)


def test_late_output_that_may_show_a_secret_is_not_taken(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    task, claim = lose(store, access, exchange, agent, sealed=True)
    end(exchange, agent, claim, b" hush")
    exchange.correct(LIMIT)
    (execution,) = store.executions(task)
    assert (execution.state, "may show a secret" in (execution.error or "")) == (ExecutionState.SUCCEEDED, True)
    assert b"".join(piece.data for piece in store.output(claim.attempt_id)) == b"one"


def test_a_run_that_somebody_follows_is_nobody_elses(store: Store, access: Access, exchange: Exchange, agent: uuid.UUID) -> None:
    task = store.open_task(spec("agent1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    deliveries = Deliveries(access, OWNER)
    deliveries.apply([Post(claim.attempt.id, "agent1", Body(uuid.uuid4(), b"{}", sealed=False))])
    exchange.take([Report(agent, held=[claim.attempt.id])])
    assert start(store, claim)
    deliveries.apply([Go(claim.attempt.id)])
    end(exchange, agent, claim, b"")
    exchange.correct(LIMIT)
    assert [execution.state for execution in store.executions(task.id)] == [ExecutionState.RUNNING]


def test_the_question_for_late_ends_reads_only_what_was_lost(access: Access) -> None:
    plan = explain(access, late._LATE.params(since=0.0))
    assert any("ix_execution_lost" in line for line in plan), plan
    assert not [line for line in plan if "SCAN" in line or "Seq Scan" in line], plan
