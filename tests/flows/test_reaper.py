"""What a worker does with its own tasks whose flow run has ended without them. Prefect is not asked."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient

from flows.reaper import Reaper
from models import database
from models.owner import Owner
from models.records import Task, TaskSpec
from models.states import ExecutionState, TaskState
from models.store import Store
from models.values import Command

_OWNER = Owner("machine", "home", "incarnation")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    database.upgrade(f"sqlite:///{tmp_path / 'fleetflow.db'}")
    store = Store.open(f"sqlite:///{tmp_path / 'fleetflow.db'}")
    yield store
    store.close()


@pytest.fixture
def reaper(store: Store, tmp_path: Path) -> Reaper:
    return Reaper(PrefectClient("http://127.0.0.1:9/api"), store, _OWNER, tmp_path, "fleet")


def _begin(store: Store, owner: str = str(_OWNER), flow_run_id: uuid.UUID | None = None) -> Task:
    spec = TaskSpec(name="t", command=Command(script="true"), target="web1", hosts=("web1",), flow_run_id=flow_run_id)
    task = store.open_task(spec, owner)
    store.claim(task.id, owner)
    return task


def test_a_task_whose_flow_run_ended_without_it_is_ended_at_the_second_look(store: Store, reaper: Reaper) -> None:
    task = _begin(store, flow_run_id=uuid.uuid4())
    asyncio.run(reaper.end_forgotten([]))
    assert store.task(task.id).state is TaskState.RUNNING, "its flow run may have begun, or ended, while we looked"
    asyncio.run(reaper.end_forgotten([]))
    ended = store.task(task.id)
    assert (ended.state, ended.reason) == (TaskState.CANCELED, "the flow run ended before it")
    assert [execution.state for execution in store.executions(task.id)] == [ExecutionState.CANCELED]


def test_what_runs_is_of_somebody_else_or_has_no_flow_run_is_left_alone(store: Store, reaper: Reaper) -> None:
    running, others = uuid.uuid4(), str(Owner("machine", "home", "another"))
    left = [_begin(store, flow_run_id=running), _begin(store, others, uuid.uuid4()), _begin(store)]
    for _ in range(3):
        asyncio.run(reaper.end_forgotten([running]))
    assert {store.task(task.id).state for task in left} == {TaskState.RUNNING}


def test_a_run_that_is_under_way_again_at_the_second_look_is_not_forgotten(store: Store, reaper: Reaper) -> None:
    flow_run_id = uuid.uuid4()
    task = _begin(store, flow_run_id=flow_run_id)
    for running in ([], [flow_run_id], [], [flow_run_id]):
        asyncio.run(reaper.end_forgotten(running))
    assert store.task(task.id).state is TaskState.RUNNING
