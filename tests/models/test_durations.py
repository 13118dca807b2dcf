"""How long commands took, as the database counts it."""

import math
from itertools import pairwise

from models import durations
from models.access import Access
from models.durations import BOUNDS, Durations
from models.records import Finished, Outcome, Started
from models.states import ExecutionState
from models.store import Store
from models.values import ExecutorKind
from tests.models.test_store import OWNER, SUCCEEDED, spec

FAILED = Outcome(state=ExecutionState.FAILED, exit_code=1)
UNREACHABLE = Outcome(state=ExecutionState.UNREACHABLE, error="no")


def read(access: Access) -> dict[tuple[str, str], Durations]:
    with access.reading() as connection:
        return dict(durations.read(connection))


def at_most(*seconds: float) -> list[int]:
    return [sum(one <= bound for one in seconds) for bound in BOUNDS]


def test_each_try_that_started_is_counted_once_by_executor_and_state(store: Store, access: Access) -> None:
    task = store.open_task(spec("a", "b", "c", "d", "e", "f"), OWNER)
    a, b, c, d, e, f = store.claim(task.id, OWNER)
    assert read(access) == {}
    running = ExecutionState.RUNNING
    started = [Started(a, 100.0, ExecutorKind.SSH), Started(b, 100.0, ExecutorKind.SSH), Started(c, 100.0, ExecutorKind.AGENT)]
    assert all(store.write([*started, Started(e, 100.0, ExecutorKind.LOCAL), Started(f, 100.0, ExecutorKind.AGENT)]))
    ends = [Finished(a, 100.25, running, SUCCEEDED, (), {}), Finished(b, 110.0, running, SUCCEEDED, (), {})]
    assert all(store.write([*ends, Finished(d, 101.0, ExecutionState.QUEUED, UNREACHABLE, (), {})]))
    assert all(store.write([Finished(c, 99.0, running, FAILED, (), {})])), "a clock that was set back"
    assert store.write(ends) == [False, False], "what came twice counts once"
    lost = Outcome(state=ExecutionState.LOST, error="silent")
    assert all(store.write([Finished(f, 400.0, running, lost, (), {})])), "given up"
    assert all(store.write([Finished(f, 900.0, ExecutionState.LOST, SUCCEEDED, (), {})])), "and told late"
    assert store.try_again(Finished(e, 10_100.0, running, FAILED, (), {}), OWNER) is not None
    assert read(access) == {
        ("ssh", "succeeded"): Durations(at_most(0.25, 10.0), 10.25),
        ("agent", "failed"): Durations(at_most(0.0), 0.0),
        ("local", "failed"): Durations(at_most(10_000.0), 10_000.0),
    }


def test_the_last_bound_is_none() -> None:
    assert math.isinf(BOUNDS[-1])
    assert all(one < other for one, other in pairwise(BOUNDS))
