"""A task that is confirmed wave by wave: people are asked before each wave but the first, and what they say holds."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.records import Task
from models.states import ExecutionState, TaskState
from models.store import Store
from tests.servers.worker import Worker
from tests.until import until


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Iterator[Worker]:
    """The careful worker, with three hosts that are all this machine."""
    inventory = careful.home / "hosts.d" / "waves.yaml"
    inventory.parent.mkdir(exist_ok=True)
    inventory.write_text("hosts:\n  wave[1-3]: {executor: local}\n")
    yield careful
    inventory.unlink()


def _asked(worker: Worker, run: str, before: str = "") -> dict[str, Any]:
    """The state of the run once it waits for an answer that it did not wait for before."""

    def waits() -> dict[str, Any] | None:
        state: dict[str, Any] = worker.flow_run(run)["state"]
        return state if state["type"] == "PAUSED" and state["id"] != before else None

    return until(waits, 20, "the question")


def _answer(worker: Worker, run: str, **form: str) -> None:
    assert worker.server.post(f"/flow_runs/{run}/resume", run_input={"who": "ann", **form})["status"] == "ACCEPT"


def _outcome(worker: Worker, run: str) -> tuple[Task, dict[str, tuple[ExecutionState, str | None]], list[tuple[str, bool]]]:
    """The task, its hosts, and what was asked and answered."""
    store = Store.open(worker.database)
    try:
        task = store.task_of_flow_run(uuid.UUID(run))
        assert task is not None
        hosts = {execution.host: (execution.state, execution.error) for execution in store.executions(task.id)}
        return task, hosts, [(approval.question, approval.approved is True) for approval in store.approvals(task.id)]
    finally:
        store.close()


def test_each_wave_waits_for_its_yes_and_a_no_ends_the_task(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = worker.begin(command=f"echo ran >> {log}", target="wave[1-3]", waves="1,2,3", confirm_waves=True)
    second = _asked(worker, run)
    assert second["message"] == "Go on with wave 2 of 3 (1 host)?"
    assert log.read_text() == "ran\n"
    _answer(worker, run, approve="yes")
    third = _asked(worker, run, before=second["id"])
    assert third["message"] == "Go on with wave 3 of 3 (1 host)?"
    assert log.read_text() == "ran\n" * 2
    _answer(worker, run, approve="no", why="enough")
    state = worker.end_of(run)["state"]
    assert (state["type"], "not started: refused by ann: enough" in state["message"]) == ("FAILED", True)
    assert log.read_text() == "ran\n" * 2
    task, hosts, answers = _outcome(worker, run)
    assert (task.state, task.reason) == (TaskState.FAILED, "refused by ann: enough")
    done = (ExecutionState.SUCCEEDED, None)
    assert hosts == {"wave1": done, "wave2": done, "wave3": (ExecutionState.CANCELED, "not started: refused by ann: enough")}
    assert answers == [(second["message"], True), (third["message"], False)]


def test_a_task_of_one_wave_asks_nobody(worker: Worker) -> None:
    run = worker.begin(command="true", target="wave[1-3]", confirm_waves=True)
    assert worker.end_of(run)["state_type"] == "COMPLETED"
    assert _outcome(worker, run)[2] == []
