"""A worker and a Prefect server that is busy, broken, or forgetful, and cancels that need no Prefect at all."""

import itertools
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.records import Task
from models.states import ExecutionState, TaskState
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import Fault, Proxy, run_proxy
from tests.servers.worker import Worker, run_worker
from tests.stacks import marked, new_word
from tests.until import until

pytestmark = pytest.mark.slow

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


@pytest.fixture(scope="module")
def proxy(prefect_server: PrefectServer) -> Iterator[Proxy]:
    with run_proxy(prefect_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def worker(prefect_server: PrefectServer, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that reaches Prefect's server through the proxy only."""
    home = tmp_path_factory.mktemp("proxied")
    with run_worker(prefect_server, home, PREFECT_API_URL=f"http://127.0.0.1:{proxy.port}/api") as running:
        yield running


@pytest.fixture(scope="module")
def store(worker: Worker) -> Iterator[Store]:
    store = Store.open(worker.database)
    yield store
    store.close()


def _task(store: Store, flow_run_id: str) -> Task:
    task = store.task_of_flow_run(uuid.UUID(flow_run_id))
    assert task is not None
    return task


def _first_of_each(fault: Fault, only: str = "") -> Callable[[str, str], Fault | None]:
    """Spoil the first request of each kind, among those whose path has `only` in it."""
    seen: set[str] = set()

    def choose(method: str, path: str) -> Fault | None:
        kind = f"{method} {_ID.sub('ID', path)}"
        if kind in seen or only not in path:
            return None
        seen.add(kind)
        return fault

    return choose


@pytest.mark.parametrize(
    ("fault", "only"), [(Fault.ERROR, ""), (Fault.TOO_MANY, ""), (Fault.HTML, ""), (Fault.LOST, ""), (Fault.SLOW, "/set_state")]
)
def test_a_task_ends_as_it_should_whatever_prefect_answers(
    worker: Worker, proxy: Proxy, store: Store, tmp_path: Path, fault: Fault, only: str
) -> None:
    witness = tmp_path / "witness"
    before = len(store.tasks(1000))
    with proxy.spoiling(_first_of_each(fault, only)) as spoiled:
        run = worker.run_command(f"echo once >> {witness}; echo hi")
        assert worker.end_of(run)["state_type"] == "COMPLETED"
        assert any(request.endswith("/set_state") for request in spoiled)
    task = _task(store, run)
    assert (task.state, task.counts[ExecutionState.SUCCEEDED]) == (TaskState.SUCCEEDED, 1)
    assert len(store.tasks(1000)) == before + 1
    assert witness.read_text() == "once\n"
    assert [execution.attempt for execution in store.executions(task.id)] == [1]


def test_every_change_of_state_may_lose_its_answer(worker: Worker, proxy: Proxy, store: Store) -> None:
    turns = itertools.count()
    with proxy.spoiling(lambda _, path: Fault.LOST if path.endswith("/set_state") and next(turns) % 2 == 0 else None) as spoiled:
        runs = [worker.run_command(f"echo {number}") for number in range(3)]
        assert [worker.end_of(run)["state_type"] for run in runs] == ["COMPLETED"] * 3
        assert len(spoiled) >= 9, "claim, start and end of each"
    assert {_task(store, run).state for run in runs} == {TaskState.SUCCEEDED}


def test_a_cancel_in_the_store_is_obeyed_while_prefect_is_away(worker: Worker, proxy: Proxy, store: Store) -> None:
    word = new_word()
    run = worker.run_command("echo begun; sleep 60", env=[f"WORD={word}"])
    until(lambda: marked(word), 20, "the command to run")
    with proxy.spoiling(lambda *_: Fault.ERROR):
        began = time.monotonic()
        assert store.request_cancel(uuid.UUID(run), "alice@desk")
        until(lambda: _task(store, run).state is TaskState.CANCELED, 8, "the task to be canceled")
        assert time.monotonic() - began < 5
        assert not marked(word)
    state = worker.end_of(run)["state"]
    assert (state["type"], state["message"]) == ("CANCELLED", "canceled by alice@desk")
    task = _task(store, run)
    assert task.reason == "canceled by alice@desk"
    (execution,) = store.executions(task.id)
    assert execution.state is ExecutionState.CANCELED
    assert store.row(execution)["stdout"] == "begun\n", "what it printed until then is kept"
    until(lambda: worker.task_runs(run) == ["CANCELLED"], 10, "the task run")


def test_a_cancel_in_prefect_is_noted_in_the_store(worker: Worker, store: Store) -> None:
    word = new_word()
    run = worker.run_command("sleep 60", env=[f"WORD={word}"])
    until(lambda: marked(word), 20, "the command to run")
    worker.cancel(run)
    assert worker.end_of(run, 10)["state_type"] == "CANCELLED"
    assert _task(store, run).reason == "canceled by Prefect"
    until(lambda: worker.task_runs(run) == ["CANCELLED"], 10, "the task run")


def test_a_flow_run_and_its_deployment_deleted_in_mid_run_leave_the_store_true(worker: Worker, store: Store, tmp_path: Path) -> None:
    word, go = new_word(), tmp_path / "go"
    run = worker.run_command(f"while [ ! -e {go} ]; do sleep 0.1; done; echo done", env=[f"WORD={word}"])
    until(lambda: marked(word), 20, "the command to run")
    deployment = worker.flow_run(run)["deployment_id"]
    for path in (f"/flow_runs/{run}", f"/deployments/{deployment}"):
        until(lambda path=path: worker.server.api.delete(path).is_success, 10)  # type: ignore[misc]  # mypy cannot infer a default
    go.touch()
    until(lambda: _task(store, run).state is TaskState.SUCCEEDED, 20, "the task to end")
    assert worker.run("quick")["state_type"] == "COMPLETED"
