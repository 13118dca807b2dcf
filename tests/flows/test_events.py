"""What fleetflow tells Prefect's events, and what an automation makes of it."""

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import events
from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker
from tests.until import until

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "prefect.md"


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


def _events(server: PrefectServer, run: str) -> list[dict[str, Any]]:
    wanted = {"event": {"prefix": ["fleetflow."]}, "related": {"id": [f"prefect.flow-run.{run}"]}}
    found: list[dict[str, Any]] = server.post("/events/filter", filter=wanted, limit=50)["events"]
    return found


def _names(server: PrefectServer, run: str) -> list[str]:
    return sorted(event["event"] for event in _events(server, run))


def test_a_task_that_succeeds_is_finished(worker: Worker) -> None:
    run = worker.begin(command="true")
    worker.end_of(run)
    (event,) = until(lambda: _events(worker.server, run), 20, "the event")
    assert event["event"] == "fleetflow.task.finished"
    assert event["resource"]["prefect.resource.id"].startswith("fleetflow.task.")
    assert event["payload"]["counts"]["succeeded"] == event["payload"]["hosts"] == 1
    assert (event["payload"]["state"], event["payload"]["sentence"]) == ("succeeded", "1 host succeeded")


def test_of_many_hosts_that_are_unreachable_only_the_first_have_events(worker: Worker) -> None:
    hosts = events.MOST + 5
    run = worker.begin(command="true", target=f"root@127.9.2.[1-{hosts}]:1", host_key="off")
    worker.end_of(run)
    expected = ["fleetflow.host.unreachable"] * events.MOST + ["fleetflow.task.failed", "fleetflow.task.finished"]
    until(lambda: _names(worker.server, run) == expected, 20, "the events")
    of_hosts = [event for event in _events(worker.server, run) if event["event"] == "fleetflow.host.unreachable"]
    assert len({event["resource"]["prefect.resource.id"] for event in of_hosts}) == events.MOST
    assert all(event["payload"]["reason"] for event in of_hosts)
    (failed,) = (event for event in _events(worker.server, run) if event["event"] == "fleetflow.task.failed")
    assert failed["payload"]["counts"]["unreachable"] == hosts


@contextmanager
def _notified() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that takes notifications; its URL, and what has come."""
    came: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", came
        finally:
            server.shutdown()
            thread.join()


def _webhook(server: PrefectServer, url: str) -> str:
    """A block that posts notifications to `url`; returns its id."""
    block_type = until(
        lambda: next(iter(server.post("/block_types/filter", block_types={"slug": {"any_": ["custom-webhook"]}})), None),
        20,
        "the block type",
    )
    schema = server.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [block_type["id"]]}})[0]
    data = {"name": "test", "url": url, "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    body = {"name": f"hook-{uuid.uuid4().hex[:8]}", "data": data, "block_type_id": block_type["id"], "block_schema_id": schema["id"]}
    return str(server.post("/block_documents/", **body)["id"])


def test_the_documented_automation_notifies_of_a_failed_task(worker: Worker) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    with _notified() as (url, came):
        automation = worker.server.post("/automations/", json.loads(text.replace("BLOCK", _webhook(worker.server, url))))
        try:
            run = worker.begin(command="exit 3")
            worker.end_of(run)
            until(lambda: came, 30, "the notification")
        finally:
            worker.server.api.delete(f"/automations/{automation['id']}")
    task = until(lambda: _events(worker.server, run), 20, "the event, which is notified of before it is stored")[0]["payload"]["task"]
    assert came[0]["subject"] == f"fleetflow: task {task} failed"
    assert came[0]["body"].startswith("exit 3 on localhost: 1 of 1 host failed: localhost")
