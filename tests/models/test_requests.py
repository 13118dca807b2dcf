"""Tasks that stand in the database before their flow run."""

import uuid
from dataclasses import replace

import pytest

from models.audit import Actor
from models.errors import TaskTakenError
from models.requests import Requests
from models.store import Store
from tests.models.test_store import OWNER, spec

ALICE = Actor("alice", "command line")


def test_a_task_that_was_created_first_is_taken_once_and_by_its_own_run_alone(store: Store) -> None:
    requests, run = Requests(store.access), uuid.uuid4()
    (task,) = requests.create([replace(spec("web1"), request_key="k", created_by="ci")], ALICE)
    requests.bind(task.id, run)
    with pytest.raises(TaskTakenError, match=f"task {task.id} was taken by another flow run"):
        store.open_task(spec("web1", flow_run_id=uuid.uuid4()), OWNER, task.id)
    taken = store.open_task(spec("web1", "web2", flow_run_id=run), OWNER, task.id)
    assert (taken.id, taken.hosts, taken.created_by, taken.owner) == (task.id, 2, "ci", OWNER)
    assert store.open_task(spec("web1", flow_run_id=run), "another:worker:now", task.id) == taken, "a run that is resumed"
    (other,) = requests.create([replace(spec("web1"), request_key="l")], ALICE)
    assert requests.cancel(other.id, ALICE)
    with pytest.raises(TaskTakenError, match="canceled by alice, before it began"):
        store.open_task(spec("web1", flow_run_id=uuid.uuid4()), OWNER, other.id)
