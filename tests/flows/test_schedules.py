"""Scheduled tasks run, and those that are older than their period are skipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.servers.worker import FINAL, Worker
from tests.until import until


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


def _pause(worker: Worker, paused: bool) -> None:
    until(lambda: worker.server.api.patch(f"/work_pools/{worker.pool}", json={"is_paused": paused}).is_success)


@contextmanager
def _scheduled(worker: Worker, seconds: int) -> Iterator[str]:
    """A deployment of run-command that runs every so many seconds, until this is left; its id."""
    schedule = {"active": True, "schedule": {"interval": seconds}}
    deployment = worker.deploy("flows.run_command.run_command", name="nightly", schedules=[schedule], parameters={"command": "echo night"})
    try:
        yield deployment
    finally:
        until(lambda: worker.server.api.delete(f"/deployments/{deployment}").is_success)


def _due(worker: Worker, deployment: str) -> int:
    """How many runs should have started by now, and have not."""
    due = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    return len(worker.server.post("/flow_runs/filter", deployments={"id": {"any_": [deployment]}}, flow_runs=due))


def _ended(worker: Worker, deployment: str) -> list[dict[str, Any]]:
    """The runs that have ended, the oldest first."""
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": sorted(FINAL)}}}}
    found: list[dict[str, Any]] = worker.server.post("/flow_runs/filter", **wanted, sort="EXPECTED_START_TIME_ASC", limit=100)
    return found


@pytest.mark.slow
def test_of_scheduled_runs_that_have_piled_up_only_the_newest_runs(worker: Worker) -> None:
    _pause(worker, True)
    with _scheduled(worker, 1) as deployment:
        until(lambda: _due(worker, deployment) >= 2, 30, "runs that are due")
        _pause(worker, False)
        ended = until(lambda: found if len(found := _ended(worker, deployment)) >= 3 else None, 20, "three runs")
    skipped = [run for run in ended if run["state"]["name"] == "Skipped"]
    ran = [run for run in ended if run["state"]["type"] == "COMPLETED"]
    assert skipped
    assert ran
    assert all("is due" in run["state"]["message"] for run in skipped)
    assert max(run["expected_start_time"] for run in skipped) < min(run["expected_start_time"] for run in ran)
    wanted = {"event": {"name": ["fleetflow.task.skipped"]}, "related": {"id": [f"prefect.flow-run.{skipped[0]['id']}"]}}
    until(lambda: worker.server.post("/events/filter", filter=wanted, limit=5)["events"], 20, "the event")


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
