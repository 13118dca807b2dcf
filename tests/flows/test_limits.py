"""Concurrency limits of deployments make runs wait; they end none, and lose none."""

import asyncio
import uuid
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prefect.client.orchestration import PrefectClient

from flows.limits import place_kept
from tests.servers.worker import Worker
from tests.until import until


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


def _limited(worker: Worker, flow: str) -> str:
    """A deployment of which one run may be under way."""
    options = {"collision_strategy": "ENQUEUE"}
    return worker.deploy(f"tests.flows.tiny.{flow}", concurrency_limit=1, concurrency_options=options)


def _start(worker: Worker, deployment: str, **parameters: object) -> str:
    body = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
    return str(worker.server.post(f"/deployments/{deployment}/create_flow_run", **body)["id"])


def _slots(worker: Worker, deployment: str) -> int:
    limit: dict[str, Any] = worker.server.get(f"/deployments/{deployment}")["global_concurrency_limit"]
    return int(limit["active_slots"])


def test_a_run_under_a_limit_has_its_place_without_a_thread_of_prefect_that_could_end_it(worker: Worker, tmp_path: Path) -> None:
    deployment = _limited(worker, "tell_threads")
    run = _start(worker, deployment, file=str(tmp_path / "threads"))
    assert worker.end_of(run)["state_type"] == "COMPLETED"
    assert "fleetflow-engine" in (tmp_path / "threads").read_text()
    assert "concurrency-lease" not in (tmp_path / "threads").read_text()
    until(lambda: _slots(worker, deployment) == 0, 5, "the place to be free")


@pytest.mark.slow
def test_runs_over_the_limit_wait_and_are_all_run(worker: Worker, tmp_path: Path) -> None:
    deployment = _limited(worker, "alone")
    runs = [_start(worker, deployment, folder=str(tmp_path)) for _ in range(3)]
    assert [worker.end_of(run, 60)["state_type"] for run in runs] == ["COMPLETED"] * 3


async def test_a_place_is_renewed_until_it_is_gone() -> None:
    asked: list[tuple[uuid.UUID, float]] = []

    class Client:
        async def renew_concurrency_lease(self, lease_id: uuid.UUID, lease_duration: float) -> None:
            asked.append((lease_id, lease_duration))
            if len(asked) == 3:
                request = httpx.Request("POST", "http://127.0.0.1/")
                raise httpx.HTTPStatusError("gone", request=request, response=httpx.Response(410, request=request))

    lease = uuid.uuid4()
    async with place_kept(cast("PrefectClient", Client()), lease, every=0.01, lasts=7):
        async with asyncio.timeout(5):
            while len(asked) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert asked == [(lease, 7)] * 3
