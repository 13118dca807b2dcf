"""Which hosts of a task run again."""

import pytest
from sqlalchemy import text

from models.access import Access
from models.records import Finished, Outcome, Started, Task
from models.retries import Kind, choose
from models.states import ExecutionState
from models.store import Store
from models.tags import Tag
from tests.models.conftest import explain
from tests.models.test_store import OWNER, finish, spec, start

S = ExecutionState


@pytest.fixture
def task(store: Store) -> Task:
    """A host for each way to end, and one that was canceled while it waited for its second try."""
    task = store.open_task(spec("fine", "failed", "late", "away", "lost", "again", "stopped", "never"), OWNER)
    fine, failed, late, away, lost, again, stopped, _ = store.claim(task.id, OWNER)
    store.write([Started(claim, 1.0) for claim in (fine, failed, late, lost, again, stopped)])
    finish(store, fine)
    finish(store, failed, Outcome(state=S.FAILED, exit_code=1))
    finish(store, late, Outcome(state=S.TIMED_OUT, error="late"))
    finish(store, away, Outcome(state=S.UNREACHABLE, error="away"), S.QUEUED)
    finish(store, lost, Outcome(state=S.LOST, error="cut"))
    finish(store, stopped, Outcome(state=S.CANCELED, error="canceled"))
    store.try_again(Finished(again, 2.0, S.RUNNING, Outcome(state=S.FAILED, exit_code=1), (), {}), OWNER)
    return store.close_task(task.id, canceled=True, reason="canceled")


@pytest.mark.parametrize(
    ("kinds", "hosts"),
    [
        ([Kind.FAILED], ["failed", "late", "away", "again", "never"]),
        ([Kind.LOST], ["lost"]),
        ([Kind.NOT_STARTED], ["away", "never"]),
        ([Kind.LOST, Kind.NOT_STARTED], ["away", "lost", "never"]),
        ([Kind.ALL], ["fine", "failed", "late", "away", "lost", "again", "stopped", "never"]),
    ],
)
def test_the_hosts_of_each_kind(store: Store, task: Task, kinds: list[Kind], hosts: list[str]) -> None:
    assert choose(store.executions(task.id), store.attempts(task.id), kinds) == hosts
    assert store.recount(task.id) == task.counts


def test_a_further_try_shuts_out_the_writer_of_the_one_before(store: Store) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (first,) = store.claim(task.id, OWNER)
    start(store, first)
    end = Finished(first, 2.0, S.RUNNING, Outcome(state=S.FAILED, exit_code=1), (), {})
    second = store.try_again(end, OWNER)
    assert second is not None
    assert (second.attempt.number, second.host) == (2, "web1")
    assert store.try_again(end, OWNER) is None
    assert not finish(store, first)
    assert start(store, second)
    assert store.recount(task.id) == store.task(task.id).counts


def test_a_busy_host_refuses_a_start_and_its_neighbours_are_started(url: str) -> None:
    store = Store.open(url, host_limit=1)
    one, two = (store.open_task(spec(*hosts), OWNER) for hosts in (("web1",), ("web1", "web2")))
    (first,) = store.claim(one.id, OWNER)
    busy, free = store.claim(two.id, OWNER)
    assert store.write([Started(first, 1.0)]) == [True]
    assert store.write([Started(busy, 1.0), Started(free, 1.0)]) == [False, True]
    assert store.is_ours(busy)
    assert store.busy_hosts({"web1", "web3"}) == {"web1"}
    finish(store, first)
    assert store.busy_hosts({"web1"}) == set()
    assert store.write([Started(busy, 1.0)]) == [True]
    assert not store.is_ours(busy)
    store.close()


def test_the_question_for_busy_hosts_reads_only_what_runs(access: Access) -> None:
    plan = explain(access, text("SELECT host, count(*) FROM execution WHERE state = 'running' AND host IN ('a', 'b') GROUP BY host"))
    assert any("ix_execution_running" in line for line in plan), plan


def test_a_flow_run_names_its_task_by_a_tag_and_odd_tags_do_no_harm() -> None:
    assert Tag.RETRY_OF.number(["mine", Tag.RETRY_OF.of(42)]) == 42
    assert Tag.RETRY_OF.number(["fleetflow-retry-of:x", "fleetflow-retry-of:"]) is None
