"""A task that needs somebody's approval waits for it, paused, and nothing of it is taken until then."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.records import Approval, Task
from models.store import Store
from tests.servers.worker import Worker
from tests.until import until


@pytest.fixture
def store(careful: Worker) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{careful.home / 'fleetflow.db'}")
    yield store
    store.close()


@pytest.fixture(scope="module")
def left_alone(careful: Worker) -> str:
    """A run that nobody answers, while the other tests go on."""
    return _begin(careful, "true", "127.9.0.[1-31]")


def _begin(worker: Worker, command: str, target: str = "localhost") -> str:
    return worker.begin(command=command, target=target)


def _paused(worker: Worker, run: str) -> dict[str, Any]:
    return until(lambda: found if (found := worker.flow_run(run))["state_type"] == "PAUSED" else None, 20, "the pause")


def _resume(worker: Worker, run: str, **form: str) -> dict[str, Any]:
    answer: dict[str, Any] = worker.server.post(f"/flow_runs/{run}/resume", run_input=form)
    return answer


def _task(store: Store, run: str) -> Task:
    task = store.task_of_flow_run(uuid.UUID(run))
    assert task is not None
    return task


def _answer(store: Store, run: str) -> Approval:
    (approval,) = store.approvals(_task(store, run).id)
    return approval


def _states(store: Store, run: str) -> tuple[str, str | None, set[str]]:
    task = _task(store, run)
    return task.state, task.reason, {execution.state for execution in store.executions(task.id)}


@pytest.mark.usefixtures("left_alone")
def test_a_task_is_taken_only_once_it_is_approved_by_prefects_form(careful: Worker, store: Store, tmp_path: Path) -> None:
    run = _begin(careful, f"rm -f {tmp_path / 'old'}; touch {tmp_path / 'ran'}")
    state = _paused(careful, run)["state"]
    assert "rm -f" in state["message"]
    schema = careful.server.get(f"/flow_runs/{run}/input/{state['state_details']['run_input_keyset']['schema']}")
    assert set(schema["properties"]) == {"approve", "who", "why"}
    task = _task(store, run)
    assert (task.state, [execution.state for execution in store.executions(task.id)]) == ("pending", ["pending"])
    assert _resume(careful, run, approve="perhaps", who="ann")["status"] == "REJECT"
    assert _resume(careful, run, approve="yes", who="")["status"] == "REJECT"
    assert not (tmp_path / "ran").exists()
    assert _resume(careful, run, approve="yes", who="ann", why="old stuff")["status"] == "ACCEPT"
    assert careful.end_of(run)["state_type"] == "COMPLETED"
    assert (tmp_path / "ran").exists()
    answer = _answer(store, run)
    assert (answer.approved, answer.who, answer.why) == (True, "ann", "old stuff")
    assert answer.answered_at is not None
    assert answer.answered_at >= answer.asked_at


def test_a_task_that_needs_no_approval_asks_nobody(careful: Worker, store: Store) -> None:
    run = _begin(careful, "true")
    assert careful.end_of(run)["state_type"] == "COMPLETED"
    assert store.approvals(_task(store, run).id) == []


def test_a_refused_task_ends_canceled_and_a_retry_asks_again(careful: Worker, store: Store, tmp_path: Path) -> None:
    run = _begin(careful, f"rm -f {tmp_path / 'old'}; touch {tmp_path / 'ran'}")
    _paused(careful, run)
    _resume(careful, run, approve="no", who="ann", why="not today")
    state = careful.end_of(run)["state"]
    assert state["type"] == "CANCELLED"
    assert "refused by ann: not today" in state["message"]
    assert _states(store, run) == ("canceled", "refused by ann: not today", {"canceled"})
    careful.server.post(f"/flow_runs/{run}/set_state", state={"type": "SCHEDULED", "name": "AwaitingRetry"}, force=True)
    _paused(careful, run)
    assert not (tmp_path / "ran").exists()
    _resume(careful, run, approve="yes", who="bob")
    assert careful.end_of(run)["state_type"] == "COMPLETED"
    assert [(approval.approved, approval.who) for approval in store.approvals(_task(store, run).id)] == [(False, "ann"), (True, "bob")]


def test_a_run_forced_on_without_an_answer_asks_again(careful: Worker, store: Store) -> None:
    run = _begin(careful, "true; : rm")
    first = _paused(careful, run)["state"]
    careful.server.post(f"/flow_runs/{run}/set_state", state={"type": "RUNNING"}, force=True)
    until(lambda: _paused(careful, run)["state"]["id"] != first["id"], 20, "the next pause")
    _resume(careful, run, approve="yes", who="ann")
    assert careful.end_of(run)["state_type"] == "COMPLETED"
    assert _answer(store, run).who == "ann"


def test_a_cancel_ends_a_task_that_waits(careful: Worker, store: Store) -> None:
    run = _begin(careful, "true; : rm")
    _paused(careful, run)
    careful.cancel(run)
    assert careful.end_of(run)["state_type"] == "CANCELLED"
    assert _states(store, run) == ("canceled", "canceled by Prefect", {"canceled"})
    answer = _answer(store, run)
    assert (answer.approved, answer.who, answer.why) == (False, None, "canceled by Prefect")


def test_a_task_that_nobody_answers_ends_canceled(careful: Worker, store: Store, left_alone: str) -> None:
    assert careful.end_of(left_alone)["state_type"] == "CANCELLED"
    assert _states(store, left_alone) == ("canceled", "not approved: nobody answered within 15 s", {"canceled"})
    assert _answer(store, left_alone).who is None
