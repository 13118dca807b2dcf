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
from sqlalchemy import select, update

from flows import events
from models import news
from models.access import Access
from models.news import Kind, Newsroom
from models.states import ExecutionState
from models.tables import ExecutionRow, TaskRow
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


@contextmanager
def _automation(server: PrefectServer, about: str) -> Iterator[list[dict[str, str]]]:
    """The documented automation of that name, and the notifications that it has sent."""
    (text,) = (text for text in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL) if about in text)
    with _notified() as (url, came):
        automation = server.post("/automations/", json.loads(text.replace("BLOCK", _webhook(server, url))))
        try:
            yield came
        finally:
            server.api.delete(f"/automations/{automation['id']}")


def _of_agents(server: PrefectServer, word: str) -> list[dict[str, Any]]:
    """The events about agents whose names hold a word, the first one first."""
    filter_ = {"event": {"prefix": ["fleetflow.agent."]}, "order": "ASC"}
    found: list[dict[str, Any]] = server.post("/events/filter", filter=filter_, limit=50)["events"]
    return [event for event in found if word in event["payload"]["agents"]]


def test_agents_that_go_and_come_have_events_and_many_at_once_have_one(worker: Worker) -> None:
    word = f"a{uuid.uuid4().hex[:6]}x"
    many = [f"{word}{n}" for n in range(100, 100 + events.MOST_AGENTS + 1)]
    access = Access.open(worker.database)
    with _automation(worker.server, "agent.offline") as came:
        with access.writing() as connection:
            news.write(connection, Kind.OFFLINE, [f"{word}1", f"{word}2"])
            news.write(connection, Kind.ONLINE, [f"{word}2"])
            news.write(connection, Kind.ONLINE, many)
        until(lambda: len(came) == 2, 30, "the notifications")
        found = until(lambda: len(told := _of_agents(worker.server, word)) == 4 and told, 20, "the events")
    seen = [(event["event"], event["resource"]["prefect.resource.id"], event["payload"]["count"]) for event in found]
    one, two = f"fleetflow.agent.{word}1", f"fleetflow.agent.{word}2"
    off, on = "fleetflow.agent.offline", "fleetflow.agent.online"
    assert sorted(seen) == sorted([(off, one, 1), (off, two, 1), (on, two, 1), (on, "fleetflow.agents", len(many))])
    assert [event for event, resource, _ in seen if resource == two] == [off, on]
    assert found[-1]["payload"]["agents"] == f"{word}[100-{100 + events.MOST_AGENTS}]"
    assert {notice["subject"] for notice in came} == {f"fleetflow: {word}1 offline", f"fleetflow: {word}2 offline"}
    assert Newsroom(access, "tests").take(1) == [], "what was told is gone"
    access.close()


def test_the_documented_automation_notifies_of_a_failed_task(worker: Worker) -> None:
    with _automation(worker.server, "task.failed") as came:
        run = worker.begin(command="exit 3")
        worker.end_of(run)
        until(lambda: came, 30, "the notification")
    task = until(lambda: _events(worker.server, run), 20, "the event, which is notified of before it is stored")[0]["payload"]["task"]
    assert came[0]["subject"] == f"fleetflow: task {task} failed"
    assert came[0]["body"].startswith("exit 3 on localhost: 1 of 1 host failed: localhost")


def test_artifacts_show_an_end_that_comes_late(worker: Worker) -> None:
    run = worker.begin(command="exit 3")
    worker.end_of(run)
    access = Access.open(worker.database)
    with access.writing() as connection:  # as models/late.py corrects
        task = connection.scalars(select(TaskRow.id).where(TaskRow.flow_run_id == run)).one()
        connection.execute(update(TaskRow).where(TaskRow.id == task).values(succeeded=1, failed=0))
        connection.execute(update(ExecutionRow).where(ExecutionRow.task_id == task).values(state=ExecutionState.SUCCEEDED, exit_code=0))
        news.write(connection, Kind.CORRECTED, [str(task)])
    access.close()
    wanted = {"flow_run_id": {"any_": [run]}, "key": {"any_": ["fleetflow-results", "fleetflow-summary"]}}

    def shown() -> dict[str, Any]:
        return {one["type"]: one for one in worker.server.post("/artifacts/filter", artifacts=wanted)}

    until(lambda: "1 host succeeded" in shown()["table"]["description"], 30, "the table")
    (row,) = json.loads(shown()["table"]["data"])
    assert (row["state"], row["exit code"]) == ("succeeded", 0)
    page = shown()["markdown"]["data"]
    assert "1 host succeeded" in page
    assert "the task stays failed" in page
