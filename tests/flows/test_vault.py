"""Secrets from Prefect's blocks reach the command, and are shown nowhere."""

import json
import secrets
import uuid
from typing import Any

import pytest

from models.states import ExecutionState
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker
from tests.until import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


def _make_secret(server: PrefectServer, value: object) -> str:
    """Make a Secret block, as the UI does; returns its name."""
    (block_type,) = server.post("/block_types/filter", block_types={"slug": {"any_": ["secret"]}})
    schema = server.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [block_type["id"]]}})[0]
    name = f"key-{uuid.uuid4().hex[:8]}"
    body = {"name": name, "data": {"value": value}, "block_type_id": block_type["id"], "block_schema_id": schema["id"]}
    server.post("/block_documents/", **body)
    return name


def _outcome(worker: Worker, run: str) -> dict[str, Any]:
    """The row of a run's only host, as `--json` prints it."""
    store = Store.open(f"sqlite:///{worker.home / 'fleetflow.db'}")
    try:
        task = store.task_of_flow_run(uuid.UUID(run))
        assert task is not None
        (execution,) = store.executions(task.id)
        return store.row(execution)
    finally:
        store.close()


def test_the_value_of_a_secret_block_reaches_the_command_and_is_masked_everywhere(worker: Worker) -> None:
    value = f"canary-{secrets.token_hex(8)}"
    name = _make_secret(worker.server, value)
    in_two_chunks = 'printf canary-; sleep 0.2; printf %s "${KEY#canary-}"'
    script = f'printf %s "${{#KEY}} $KEY "; {in_two_chunks}; printf "<%s>\\n" "$SHORT"; echo "bad $KEY" >&2; exit 3'
    run = worker.begin(command=script, env=[f"KEY=secret:{name}", f"SHORT=secret:{_make_secret(worker.server, 'abc')}"])
    state = worker.end_of(run)["state"]
    row = _outcome(worker, run)
    assert (row["stdout"], row["stderr"], row["exit_code"]) == (f"{len(value)} *** ***<abc>\n", "bad ***\n", 3)
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}}
    logs = until(lambda: found if "bad ***" in str(found := worker.server.post("/logs/filter", **wanted)) else None, 10, "the log")
    artifacts = worker.server.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    events = worker.server.post("/events/filter", filter={"related": {"id": [f"prefect.flow-run.{run}"]}}, limit=50)
    assert artifacts
    assert value not in json.dumps([logs, artifacts, events, state, worker.flow_run(run)])
    for file in worker.home.rglob("*"):
        if file.is_file():
            assert value.encode() not in file.read_bytes(), f"in {file}"


def test_a_block_that_is_changed_gives_its_new_value_to_the_next_task(worker: Worker) -> None:
    name = _make_secret(worker.server, {"user": "ann"})
    run = worker.begin(command='test "$KEY" = \'{"user": "ann"}\'', env=[f"KEY=secret:{name}"])
    assert worker.end_of(run)["state_type"] == "COMPLETED"
    document = worker.server.get(f"/block_types/slug/secret/block_documents/name/{name}")
    changed = {"data": {"value": "another"}, "merge_existing_data": False, "block_schema_id": document["block_schema_id"]}
    assert worker.server.api.patch(f"/block_documents/{document['id']}", json=changed).is_success
    run = worker.begin(command='test "$KEY" = another', env=[f"KEY=secret:{name}"])
    assert worker.end_of(run)["state_type"] == "COMPLETED"


def test_a_secret_that_nobody_knows_starts_nothing(worker: Worker) -> None:
    run = worker.begin(command="true", env=["KEY=secret:no-such-block"])
    assert worker.end_of(run)["state_type"] == "FAILED"
    row = _outcome(worker, run)
    assert row["state"] == ExecutionState.UNREACHABLE
    assert "make a Prefect Secret block" in row["error"]
