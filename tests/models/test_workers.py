"""Leases, what becomes of a dead worker's tasks, and cancels, as the store keeps them."""

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from models import database
from models.errors import LeaseLostError
from models.lease import Lease
from models.records import WORKER_STOPPED, Outcome, Printed
from models.states import ExecutionState, TaskState
from models.store import Store
from tests.models.conftest import Raw, migrate
from tests.models.test_store import OWNER, finish, spec, start, states
from tests.until import until

DEAD = "machine:other:dead"
LOST = Outcome(state=ExecutionState.LOST, error="its worker died")


@pytest.fixture
def other(url: str) -> Iterator[Store]:
    """The same database as another process sees it."""
    store = Store.open(url)
    yield store
    store.close()


def _die(store: Store) -> None:
    """Let a worker's lease run out."""
    store.take_lease(DEAD, 0.01)
    time.sleep(0.02)


def test_a_worker_lives_as_long_as_it_renews_its_lease(store: Store, other: Store) -> None:
    store.take_lease(DEAD, 60)
    assert other.living_workers() == {DEAD}
    assert store.renew_lease(DEAD, 0.01)
    until(lambda: other.dead_workers() == [DEAD], 2)
    assert store.renew_lease(DEAD, 60), "nobody has said yet that it is dead"
    assert other.dead_workers() == []


def test_a_living_worker_is_not_taken_over(store: Store, other: Store) -> None:
    store.take_lease(DEAD, 60)
    assert not other.take_over(DEAD, OWNER)
    assert other.take_over(DEAD, OWNER, certainly=True), "its lock says that its process has ended"


def test_one_reaper_takes_a_dead_worker_and_another_only_when_that_one_has_died_too(url: str, store: Store, other: Store) -> None:
    _die(store)
    other.take_lease(OWNER, 60)
    assert other.take_over(DEAD, OWNER)
    assert other.take_over(DEAD, OWNER), "again, after a failure in the middle"
    assert not other.take_over(DEAD, "machine:home:third")
    other.leave(OWNER)
    third = Store.open(url)
    assert third.take_over(DEAD, "machine:home:third")
    third.close()


def test_a_worker_that_was_taken_for_dead_can_write_nothing(store: Store, other: Store) -> None:
    task = store.open_task(spec("running", "queued"), DEAD)
    running, queued = store.claim(task.id, DEAD)
    start(store, running)
    _die(store)
    assert other.take_over(DEAD, OWNER)
    for write in (
        lambda: store.open_task(spec("new"), DEAD),
        lambda: store.claim(task.id, DEAD),
        lambda: store.close_task(task.id),
        lambda: start(store, queued),
        lambda: finish(store, running),
        lambda: store.write([Printed(running, ())]),
        lambda: store.request_cancel(uuid.uuid4(), "me"),
    ):
        with pytest.raises(LeaseLostError, match="taken for dead"):
            write()
    assert not store.renew_lease(DEAD, 60)
    assert states(other, task.id) == {"running": ExecutionState.RUNNING, "queued": ExecutionState.QUEUED}
    other.forget_worker(DEAD)
    with pytest.raises(LeaseLostError):
        finish(store, running)


def test_what_a_dead_worker_left_is_ended_and_nobody_else_is_touched(store: Store) -> None:
    flow_run_id = uuid.uuid4()
    mine = store.open_task(spec("running", "queued", "done", flow_run_id=flow_run_id), DEAD)
    running, _, done = store.claim(mine.id, DEAD)
    for claim in (running, done):
        start(store, claim)
    finish(store, done)
    others = [store.open_task(spec("web1"), owner) for owner in ("machine:other:alive", OWNER)]
    assert [(task.id, task.flow_run_id) for task in store.open_tasks(DEAD)] == [(mine.id, flow_run_id)]
    assert store.running(mine.id) == [running]
    assert store.settle(mine.id, DEAD, [(running, LOST)])
    assert states(store, mine.id) == {"running": ExecutionState.LOST, "queued": ExecutionState.CANCELED, "done": ExecutionState.SUCCEEDED}
    assert [execution.error for execution in store.executions(mine.id)] == ["its worker died", "worker stopped", None]
    ended = store.task(mine.id)
    assert (ended.state, ended.reason) == (TaskState.FAILED, WORKER_STOPPED)
    assert store.recount(mine.id) == ended.counts
    assert {store.task(task.id).state for task in others} == {TaskState.PENDING}
    assert not finish(store, running), "the dead worker's late write must not count"
    assert store.open_tasks(DEAD) == []
    assert store.settle(mine.id, DEAD, [(running, LOST)]), "a second reaper finds nothing to do"


def test_a_task_that_nobody_had_claimed_ends_canceled(store: Store) -> None:
    task = store.open_task(spec("web1"), DEAD)
    assert store.settle(task.id, DEAD, [])
    ended = store.task(task.id)
    assert (ended.state, ended.reason, ended.counts[ExecutionState.CANCELED]) == (TaskState.CANCELED, WORKER_STOPPED, 1)


def test_a_task_stays_open_while_something_of_it_is_undecided(store: Store) -> None:
    task = store.open_task(spec("asked", "lost"), DEAD)
    asked, lost = store.claim(task.id, DEAD)
    for claim in (asked, lost):
        start(store, claim)
    assert not store.settle(task.id, DEAD, [(lost, LOST)])
    assert states(store, task.id) == {"asked": ExecutionState.RUNNING, "lost": ExecutionState.LOST}
    assert store.task(task.id).state is TaskState.RUNNING
    assert store.settle(task.id, DEAD, [(asked, Outcome(state=ExecutionState.SUCCEEDED, exit_code=0))])
    assert store.recount(task.id) == store.task(task.id).counts


def test_a_task_that_somebody_has_resumed_is_left_alone(store: Store) -> None:
    task = store.open_task(spec("web1"), DEAD)
    store.claim(task.id, DEAD)
    store.claim(task.id, OWNER)
    assert store.settle(task.id, DEAD, [])
    assert store.task(task.id).state is TaskState.RUNNING


def test_a_cancel_that_a_dead_worker_did_not_obey_is_completed(store: Store) -> None:
    flow_run_id = uuid.uuid4()
    task = store.open_task(spec("running", "queued", flow_run_id=flow_run_id), DEAD)
    running, _ = store.claim(task.id, DEAD)
    start(store, running)
    assert store.request_cancel(flow_run_id, "alice@desk")
    assert not store.request_cancel(flow_run_id, "bob@desk"), "the first to ask counts"
    assert [(found.id, found.cancel_requested_by) for found in store.cancels(DEAD)] == [(task.id, "alice@desk")]
    store.settle(task.id, DEAD, [(running, LOST)])
    ended = store.task(task.id)
    assert (ended.state, ended.reason) == (TaskState.CANCELED, "canceled by alice@desk")
    assert states(store, task.id) == {"running": ExecutionState.LOST, "queued": ExecutionState.CANCELED}
    assert not store.request_cancel(flow_run_id, "alice@desk"), "it has ended"


def test_a_request_counts_once_a_task_is_open_and_not_again_when_it_is_resumed(store: Store) -> None:
    flow_run_id = uuid.uuid4()
    assert not store.request_cancel(flow_run_id, "alice@desk"), "there is no task yet"
    task = store.open_task(spec("web1", flow_run_id=flow_run_id), OWNER)
    assert store.request_cancel(flow_run_id, "alice@desk")
    store.claim(task.id, OWNER)
    assert store.cancels(OWNER), "asked between its opening and its claim"
    assert store.close_task(task.id, canceled=True).reason == "canceled by alice@desk"
    store.claim(task.id, OWNER)
    assert store.cancels(OWNER) == []
    assert store.task(task.id).cancel_requested_by is None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # which database does not matter, and it takes a second
def test_a_lease_is_renewed_while_the_event_loop_is_busy(store: Store, other: Store) -> None:
    lease = Lease(store, DEAD, 0.3)
    time.sleep(0.9)  # as a loop that computes does
    assert other.living_workers() == {DEAD}
    lease.close()
    assert other.living_workers() == set()
    assert other.dead_workers() == [DEAD], "what it may have left is for others to end, without a wait"


async def test_who_waits_to_be_sure_hears_of_the_loss(store: Store, other: Store) -> None:
    lost = threading.Event()
    lease = Lease(store, DEAD, 0.3)
    lease.when_lost(lost.set)
    await lease.confirm()
    assert other.take_over(DEAD, OWNER, certainly=True)
    async with asyncio.timeout(5):
        while not lost.is_set():
            await asyncio.sleep(0.02)
    with pytest.raises(LeaseLostError):
        await lease.confirm()
    again = threading.Event()
    lease.when_lost(again.set)
    assert again.is_set(), "whoever asks too late is told at once"
    lease.close()


def test_what_was_open_before_there_were_leases_belongs_to_a_dead_worker(old_url: str, raw: Raw) -> None:
    migrate(old_url, "0001")
    for number, owner, finished in ((1, DEAD, None), (2, DEAD, None), (3, "machine:home:left", 5.0), (4, None, None)):
        state = "failed" if finished else "pending"
        raw(
            old_url,
            "INSERT INTO task (id, name, script, env, stdin, target, owner, state, hosts, pending, created_at, finished_at)"
            " VALUES (:id, 'old', 'true', '{}', '', 'web1', :owner, :state, 1, 1, 1.0, :finished)",
            id=number, owner=owner, state=state, finished=finished,
        )  # fmt: skip
    database.upgrade(old_url)
    store = Store.open(old_url)
    assert store.dead_workers() == [DEAD]
    assert [task.id for task in store.open_tasks(DEAD)] == [1, 2]
    store.close()


def test_a_host_of_a_dead_worker_is_free_again_once_that_is_settled(url: str) -> None:
    dying, other = (Store.open(url, host_limit=1) for _ in range(2))
    task = dying.open_task(spec("web1"), DEAD)
    (claim,) = dying.claim(task.id, DEAD)
    start(dying, claim)
    _die(dying)
    assert other.busy_hosts({"web1"}) == {"web1"}, "what it started may still run"
    assert other.take_over(DEAD, OWNER)
    assert other.settle(task.id, DEAD, [(running, LOST) for running in other.running(task.id)])
    assert other.busy_hosts({"web1"}) == set()
    dying.close()
    other.close()
