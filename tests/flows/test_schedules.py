"""Scheduled tasks run, and those that are older than their period are skipped."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.store import Store
from tests.servers.worker import FINAL, Worker
from tests.until import until

DOCS = Path(__file__).parents[2] / "docs" / "schedules.md"


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


def _pause(worker: Worker, paused: bool) -> None:
    until(lambda: worker.server.api.patch(f"/work_pools/{worker.pool}", json={"is_paused": paused}).is_success)


@contextmanager
def _scheduled(worker: Worker, schedule: dict[str, Any], **fields: object) -> Iterator[str]:
    """A deployment of run-command with a schedule, until this is left; its id."""
    deployment = worker.deploy("flows.run_command.run_command", schedules=[{"active": True, "schedule": schedule}], **fields)
    try:
        yield deployment
    finally:
        until(lambda: worker.server.api.delete(f"/deployments/{deployment}").is_success)


def _due(worker: Worker, deployment: str) -> list[dict[str, Any]]:
    """The runs that should have started by now, and have not; the oldest first."""
    due = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": due}
    found: list[dict[str, Any]] = worker.server.post("/flow_runs/filter", **wanted, sort="EXPECTED_START_TIME_ASC")
    return found


def _ended(worker: Worker, deployment: str) -> list[dict[str, Any]]:
    """The runs that have ended, the oldest first."""
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": sorted(FINAL)}}}}
    found: list[dict[str, Any]] = worker.server.post("/flow_runs/filter", **wanted, sort="EXPECTED_START_TIME_ASC", limit=100)
    return found


@pytest.mark.slow
def test_of_scheduled_runs_that_have_piled_up_only_the_newest_runs(worker: Worker) -> None:
    """The schedule goes on meanwhile, and a slow machine is late again: a run may be skipped after one that ran, but never the last."""
    _pause(worker, True)
    with _scheduled(worker, {"interval": 3}, name="often", parameters={"command": "echo night"}) as deployment:
        piled_up = until(lambda: found if len(found := _due(worker, deployment)) >= 3 else None, 40, "runs that are due")
        _pause(worker, False)
        for run in piled_up[:-1]:
            state = worker.end_of(run["id"])["state"]
            assert (state["name"], "is due" in state["message"]) == ("Skipped", True)
        ran = until(lambda: [run for run in _ended(worker, deployment) if run["state_type"] == "COMPLETED"], 60, "a run that was not late")
    assert ran[0]["expected_start_time"] >= piled_up[-1]["expected_start_time"]
    wanted = {"event": {"name": ["fleetflow.task.skipped"]}, "related": {"id": [f"prefect.flow-run.{piled_up[0]['id']}"]}}
    until(lambda: worker.server.post("/events/filter", filter=wanted, limit=5)["events"], 20, "the event")


def test_the_documented_nightly_task_runs_on_its_schedule(worker: Worker) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (nightly,) = yaml.safe_load(text)["deployments"]
    assert (nightly["entrypoint"], nightly["pull"]) == ("flows.run_command.run_command", [])
    (schedule,) = nightly["schedules"]
    assert (schedule["cron"], schedule["timezone"]) == ("0 3 * * *", "Europe/Amsterdam")
    often = schedule | {"cron": "* * * * * */2"}  # the sixth field is seconds
    parameters = nightly["parameters"] | {"target": "localhost", "command": "echo night"}
    fields = {"name": nightly["name"], "tags": nightly["tags"], "description": nightly["description"]}
    with _scheduled(worker, often, enforce_parameter_schema=True, parameters=parameters, **fields) as deployment:
        ended = until(lambda: [run for run in _ended(worker, deployment) if run["state_type"] == "COMPLETED"], 60, "a run")
    assert ended[0]["name"] == "echo night on localhost"
    assert ended[0]["parameters"].items() >= parameters.items()
    assert "auto-scheduled" in ended[0]["tags"]
    assert set(nightly["tags"]) <= set(ended[0]["tags"])
    store = Store.open(worker.database)
    task = store.task_of_flow_run(uuid.UUID(ended[0]["id"]))
    store.close()
    assert task is not None
    assert (task.command.script, task.command.timeout) == ("echo night", nightly["parameters"]["timeout"])


def test_a_task_that_takes_a_while_shows_its_progress_and_ends_at_100(worker: Worker) -> None:
    run = worker.begin(command="sleep 2.5")
    wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": ["progress"]}}

    def shown() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = worker.server.post("/artifacts/filter", artifacts=wanted)
        return found

    (first,) = until(shown, 20, "the progress")
    assert float(first["data"]) == 0
    assert worker.end_of(run)["state_type"] == "COMPLETED"
    assert float(shown()[0]["data"]) == 100
