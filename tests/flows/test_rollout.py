"""Waves, limits, retries and deadlines, over hosts that do as they are told. No Prefect."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.context import Context
from flows.rollout import Interval
from models import database
from models.policy import Policy, read_policy
from models.records import Execution, Task
from models.states import ExecutionState, TaskState
from models.store import Store
from tests.flows.rollouts import Act, Stage, names, open_context, open_task, play, resume

S = ExecutionState
FAILS = Act(S.FAILED)
AWAY = Act(S.UNREACHABLE)


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rollout") / "fleetflow.db"
    database.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def url(empty: Path, tmp_path: Path) -> str:
    shutil.copy(empty, tmp_path / "fleetflow.db")
    return f"sqlite:///{tmp_path / 'fleetflow.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url, host_limit=4)
    yield store
    store.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
async def context(store: Store, stage: Stage) -> AsyncIterator[Context]:
    async with open_context(store, stage) as context:
        yield context


def by_host(context: Context, task: Task) -> dict[str, Execution]:
    assert context.store.recount(task.id) == task.counts
    return {execution.host: execution for execution in context.store.executions(task.id)}


async def _until(condition: Callable[[], bool], running: "asyncio.Future[Task]") -> None:
    """Wait until it holds; what runs is ended if it does not, for nobody else would."""
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        running.cancel()
        await asyncio.wait([running])
        raise


# Waves


async def test_a_wave_begins_when_the_one_before_has_ended(context: Context, stage: Stage) -> None:
    stage.acts = {host: [Act(after=0.02)] for host in names(20)}
    task = await play(context, read_policy(waves="1,25%"), names(20))
    assert task.state is TaskState.SUCCEEDED
    executions = by_host(context, task)
    assert [executions[host].wave for host in names(20)] == [1] + [2] * 4 + [3] * 15
    for earlier, later in (("h0", names(5)[1:]), ("h4", names(20)[5:])):
        assert all(stage.log.index(("end", earlier)) < stage.log.index(("try", host)) for host in later)


async def test_somebody_is_asked_between_waves_and_may_refuse(context: Context, stage: Stage) -> None:
    asked: list[Interval] = []

    async def ask(interval: Interval) -> str | None:
        asked.append(interval)
        return None if interval.wave == 2 else "refused by ann"

    task = await play(context, read_policy(waves="1,2"), names(4), between=ask)
    assert [(interval.wave, interval.waves, interval.hosts) for interval in asked] == [(2, 3, ("h1",)), (3, 3, ("h2", "h3"))]
    assert asked[0].outcomes["h0"].state is S.SUCCEEDED
    assert (task.state, task.reason) == (TaskState.FAILED, "refused by ann")
    assert by_host(context, task)["h3"].error == "not started: refused by ann"


async def test_a_pause_between_waves_passes_and_can_be_canceled(context: Context, stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await play(context, read_policy(waves="1", wave_pause=0.2), names(2))
    assert loop.time() - began >= 0.2
    running = asyncio.ensure_future(play(context, read_policy(waves="1", wave_pause=600), names(2)))
    await _until(lambda: len(stage.started()) == 3 and context.store.task(2).counts[S.SUCCEEDED] == 1, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    task = context.store.task(2)
    assert (task.state, task.counts[S.SUCCEEDED], task.counts[S.CANCELED]) == (TaskState.CANCELED, 1, 1)


async def test_a_cancel_while_an_end_is_written_does_not_lose_it(context: Context, stage: Stage) -> None:
    running = asyncio.ensure_future(play(context, read_policy(), names(1)))
    while ("end", "h0") not in stage.log:
        await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert context.store.task(1).counts[S.SUCCEEDED] == 1


# The failure limit


async def test_past_the_limit_no_host_is_started_and_the_reason_is_said(context: Context, stage: Stage) -> None:
    stage.acts = {host: [FAILS] for host in names(100)[:6]}
    task = await play(context, read_policy(max_failures="5%", forks=1), names(100))
    reason = "6 of 100 hosts failed, more than the 5 allowed"
    assert (task.state, task.reason) == (TaskState.FAILED, reason)
    assert len(stage.log) == 2 * 6 + 6, "nobody else was even tried"
    executions = by_host(context, task)
    assert {executions[host].state for host in names(100)[:6]} == {S.FAILED}
    assert {(executions[host].state, executions[host].error) for host in names(100)[6:]} == {(S.CANCELED, f"not started: {reason}")}


async def test_a_limit_that_is_only_reached_stops_nothing(context: Context, stage: Stage) -> None:
    stage.acts = {host: [FAILS] for host in names(5)}
    task = await play(context, read_policy(max_failures="5", forks=1), names(20))
    assert (task.counts[S.FAILED], task.counts[S.SUCCEEDED], task.reason) == (5, 15, None)


async def test_all_ways_to_go_wrong_count_alike(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [FAILS], "h1": [AWAY], "h2": [Act(S.LOST)], "h3": [Act(S.TIMED_OUT)]}
    task = await play(context, read_policy(max_failures="3", forks=1), names(6), timeout=0.1)
    assert task.reason == "4 of 6 hosts failed, more than the 3 allowed"
    assert (task.counts[S.LOST], task.counts[S.TIMED_OUT], task.counts[S.CANCELED]) == (1, 1, 2)


async def test_unreachable_hosts_can_be_left_out_of_the_count(context: Context, stage: Stage) -> None:
    stage.acts = {host: [AWAY] for host in names(5)}
    task = await play(context, read_policy(max_failures="0", ignore_unreachable=True), names(8))
    assert (task.counts[S.UNREACHABLE], task.counts[S.SUCCEEDED], task.reason) == (5, 3, None)


async def test_what_runs_when_the_limit_is_passed_runs_to_its_end(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [Act(S.FAILED, after=0.05)], "h1": [Act(after=0.3)], "h2": [Act(before=0.3)]}
    task = await play(context, read_policy(max_failures="0", forks=3), names(5))
    executions = by_host(context, task)
    assert executions["h1"].state is S.SUCCEEDED
    assert "h2" not in stage.started(), "it was on its way, and not started any more"
    assert executions["h2"].error == "not started: 1 of 5 hosts failed, and none was allowed to"


async def test_a_resumed_task_counts_what_failed_before(context: Context, stage: Stage) -> None:
    policy = read_policy(max_failures="0")
    task = open_task(context, policy, names(3))
    first, *_ = context.store.claim(task.id, str(context.owner))
    await context.recorder.record(first).starting()
    context.store.close_task(task.id, reason="worker stopped")
    again = await resume(context, task)
    assert (again.state, again.reason) == (TaskState.FAILED, "1 of 3 hosts failed, and none was allowed to")
    assert stage.started() == []


# Retries


async def test_each_try_is_kept_and_only_the_last_one_counts(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [FAILS, AWAY, Act()], "h1": [FAILS]}
    task = await play(context, read_policy(retries=2, retry_delay=0.01, max_failures="1"), names(3))
    assert (task.state, task.reason, task.counts[S.SUCCEEDED], task.counts[S.FAILED]) == (TaskState.FAILED, None, 2, 1)
    assert by_host(context, task)["h0"].attempt == 3
    tries = context.store.attempts(task.id, "h0")
    assert [(one.attempt, one.state, one.exit_code, one.error) for one in tries] == [
        (1, S.FAILED, 3, None),
        (2, S.UNREACHABLE, None, "away"),
        (3, S.SUCCEEDED, 0, None),
    ]
    outputs = [b"".join(piece.data for piece in context.store.output(one.attempt_id or 0)) for one in tries]
    assert outputs == [b"try 1", b"", b"try 3"]


@pytest.mark.parametrize("end", [S.LOST, S.TIMED_OUT])
async def test_what_may_have_run_is_never_tried_again(context: Context, stage: Stage, end: ExecutionState) -> None:
    stage.acts = {"h0": [Act(end)]}
    task = await play(context, read_policy(retries=3, retry_delay=0.01), ["h0"], timeout=0.1)
    assert (stage.tries["h0"], task.counts[end]) == (1, 1)


async def test_a_host_that_waits_for_its_next_try_is_queued_and_takes_no_fork(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [FAILS, Act()]}
    running = asyncio.ensure_future(play(context, read_policy(retries=1, retry_delay=600, forks=1), names(3)))
    await _until(lambda: any(line.succeeded == 2 and line.queued == 1 for line in context.store.tasks(1)), running)
    task = context.store.task(1)
    assert by_host(context, task)["h0"].started_at is None
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = by_host(context, context.store.task(1))["h0"]
    assert (ended.state, ended.error) == (S.CANCELED, "canceled (try 1: failed, exit code 3)")


async def test_past_the_limit_nothing_is_tried_again(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [FAILS, Act()], "h1": [Act(S.LOST, after=0.2)]}
    task = await play(context, read_policy(retries=1, retry_delay=600, max_failures="0"), names(2))
    error = by_host(context, task)["h0"].error
    assert error == "not tried again: 1 of 2 hosts failed, and none was allowed to (try 1: failed, exit code 3)"


# The deadline


async def test_at_the_deadline_what_runs_is_ended_and_nothing_more_starts(context: Context, stage: Stage) -> None:
    stage.acts = {"h0": [Act(after=60)], "h1": [FAILS], "h2": [Act(before=4)]}
    policy = read_policy(deadline=0.5, forks=3, retries=1, retry_delay=600, waves="3")
    task = await play(context, policy, names(5))
    assert (task.state, task.reason) == (TaskState.FAILED, "the task's deadline of 0.5 s has passed")
    executions = by_host(context, task)
    assert (executions["h0"].state, executions["h0"].error) == (S.TIMED_OUT, "timed out at the task's deadline of 0.5 s")
    assert (executions["h1"].state, executions["h1"].error) == (
        S.CANCELED,
        "not tried again: the task's deadline of 0.5 s has passed (try 1: failed, exit code 3)",
    )
    assert {(executions[host].state, executions[host].error) for host in ("h2", "h3", "h4")} == {
        (S.CANCELED, "not started: the task's deadline of 0.5 s has passed")
    }


async def test_a_deadline_ends_the_wait_for_somebody_s_word(context: Context) -> None:
    async def wait(interval: Interval) -> str | None:
        await asyncio.sleep(60)
        return None

    task = await play(context, read_policy(deadline=0.3, waves="1"), names(2), between=wait)
    assert task.reason == "the task's deadline of 0.3 s has passed"


# The limit of a host


async def test_a_host_runs_no_more_than_its_limit_over_all_tasks(store: Store) -> None:
    stage = Stage({"h0": [Act(after=0.05)]})
    async with open_context(store, stage, host_limit=2) as context:
        tasks = [asyncio.ensure_future(play(context, Policy(), ["h0", f"own{number}"])) for number in range(6)]
        assert {(await task).state for task in tasks} == {TaskState.SUCCEEDED}
    count = running = 0
    for what, host in stage.log:
        if host == "h0":
            running += {"start": 1, "end": -1, "try": 0}[what]
            count = max(count, running)
    assert count == 2


async def test_two_workers_on_one_database_keep_a_host_s_limit_together(url: str) -> None:
    first, second = (Store.open(url, host_limit=1) for _ in range(2))
    log: list[tuple[str, str]] = []
    stages = [Stage({"h0": [Act(after=0.05)]}, log) for _ in range(2)]
    async with (
        open_context(first, stages[0], host_limit=1) as one,
        open_context(second, stages[1], host_limit=1, incarnation="two") as two,
    ):
        tasks = await asyncio.gather(*(play(context, Policy(), ["h0"]) for context in (one, two, one, two)))
    assert {task.state for task in tasks} == {TaskState.SUCCEEDED}
    happened = [what for what, _ in log if what != "try"]
    assert happened == ["start", "end"] * 4, "never two at once"
    first.close()
    second.close()


async def test_a_host_that_is_busy_keeps_no_fork_from_others_and_loses_no_time_to_connect(store: Store) -> None:
    stage = Stage({"busy": [Act(after=0.4)]})
    async with open_context(store, stage, host_limit=1) as context:
        holding = asyncio.ensure_future(play(context, Policy(), ["busy"]))
        await _until(lambda: bool(stage.running), holding)
        task = await play(context, Policy(forks=1), ["busy", "h1", "h2"])
        await holding
    assert task.state is TaskState.SUCCEEDED
    second_end = len(stage.log) - 1 - stage.log[::-1].index(("start", "busy"))
    assert stage.log.index(("end", "h2")) < second_end


# All of it, by chance

_ACTS = st.builds(
    Act,
    st.sampled_from([S.SUCCEEDED, S.SUCCEEDED, S.FAILED, S.UNREACHABLE, S.LOST]),
    st.sampled_from([0, 0, 0.001, 0.003]),
    st.sampled_from([0, 0, 0.002, 0.005]),
)
_WAVES = st.sampled_from(["", "1", "1,10%,100%", "50%", "2,3,4", "20%,60%"])
_LIMITS = st.sampled_from(["", "0", "1", "2", "20%", "50%"])


@settings(max_examples=40, deadline=None)
@given(
    acts=st.lists(st.lists(_ACTS, min_size=1, max_size=3), min_size=1, max_size=25),
    waves=_WAVES,
    limit=_LIMITS,
    forks=st.integers(1, 8),
    retries=st.integers(0, 2),
    ignore=st.booleans(),
)
def test_whatever_happens_the_policy_holds(
    empty: Path, acts: list[list[Act]], waves: str, limit: str, forks: int, retries: int, ignore: bool
) -> None:
    hosts = names(len(acts))
    policy = read_policy(
        waves=waves, max_failures=limit, forks=forks, retries=retries, retry_delay=0.001, ignore_unreachable=ignore, order="listed"
    )
    stage = Stage(dict(zip(hosts, acts, strict=True)))
    store = Store.open(f"sqlite:///{empty}", host_limit=4)

    async def run() -> Task:
        async with open_context(store, stage) as context:
            return await play(context, policy, hosts)

    task = asyncio.run(run())
    executions = {execution.host: execution for execution in store.executions(task.id)}
    attempts = store.attempts(task.id)
    assert store.recount(task.id) == task.counts
    store.close()
    assert stage.most <= forks
    # Every host has one end, and no more tries than it may have.
    assert all(execution.state.is_final for execution in executions.values())
    assert all(1 <= executions[host].attempt <= retries + 1 for host in hosts)
    assert len(attempts) == sum(execution.attempt for execution in executions.values())
    # What was not started is canceled, and nothing else is.
    tried = {host for what, host in stage.log if what == "try"}
    assert all(executions[host].state is S.CANCELED for host in hosts if host not in tried)
    assert (task.counts[S.CANCELED] > 0) <= (task.reason is not None)
    # No wave begins before the one before it has ended.
    begun = [executions[host].wave for _, host in stage.log]
    assert begun == sorted(begun)
    # Once the limit is passed, no host starts: those that go wrong are the ones allowed, and at most those that ran at that moment.
    allowed = policy.allowed(len(hosts))
    counted = {S.FAILED, S.TIMED_OUT, S.LOST} | (set() if ignore else {S.UNREACHABLE})
    wrong = [host for host in hosts if executions[host].state in counted]
    if allowed is None:
        assert task.reason is None
        assert set(hosts) == tried
    else:
        assert len(wrong) <= allowed + forks
        assert (task.reason is not None) == (len(wrong) > allowed)
        assert len(_after_the_limit(stage, wrong, allowed)) == 0


def _after_the_limit(stage: Stage, wrong: list[str], allowed: int) -> list[str]:
    """The hosts that began after the last try had ended of `allowed + 1` hosts that went wrong."""
    ends = sorted(max(place for place, entry in enumerate(stage.log) if entry == ("end", host)) for host in wrong)
    return [host for what, host in stage.log[ends[allowed] + 1 :] if what == "try"] if len(ends) > allowed else []
