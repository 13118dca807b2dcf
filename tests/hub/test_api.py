"""The REST API: who may do what, what it answers, and that nothing is made twice."""

import hashlib
import inspect
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from flows.run_command import run_command
from flows.run_script import run_script
from hub.api.roles import BASE, ROLES
from hub.api.shapes import NewTask
from hub.app import create_app
from models.audit import Audit
from models.records import Finished, Outcome, Piece, Printed, Started
from models.settings import Settings
from models.states import AgentState, ExecutionState
from models.tokens import Role
from models.values import Stream
from tests.hub.agents import SmallAgent
from tests.hub.api import Api, events
from tests.models.test_store import OWNER, spec
from tests.servers.hub import TESTS, Hub
from tests.until import until

S = ExecutionState
_RANK = list(Role)


@pytest.fixture(scope="module")
def api(hub: Hub) -> Iterator[Api]:
    (hub.home / "hosts.yaml").write_text("hosts:\n  web[1-3]: {groups: [web], tags: {dc: ams}}\n  db1: {groups: [db], executor: agent}\n")
    made = Api(hub)
    yield made
    made.close()


def _routes(app: FastAPI | APIRouter) -> list[tuple[str, str]]:
    """Every route of the application's own table; from FastAPI 0.150 on, those of a router stand in the router alone."""
    routers = [route.original_router for route in app.routes if hasattr(route, "original_router")]
    own = [(method, route.path) for route in app.routes if isinstance(route, APIRoute) for method in sorted(route.methods)]
    return [*own, *(found for router in routers for found in _routes(router))]


@pytest.fixture(scope="module")
def routes(hub: Hub) -> list[tuple[str, str]]:
    return _routes(create_app(Settings.load().model_copy(update={"database_url": hub.database})))


def test_every_route_has_its_role_and_every_role_its_route(routes: list[tuple[str, str]]) -> None:
    assert sorted(routes) == sorted(ROLES)


def test_each_role_may_what_the_table_says_and_no_more(api: Api, routes: list[tuple[str, str]]) -> None:
    for (method, path), role in itertools.product(routes, Role):
        where = path.removeprefix(BASE).format(task=999_999, host="nowhere", name="nowhere")
        status = api(method, where, role).status_code
        may = _RANK.index(role) >= _RANK.index(ROLES[method, path])
        assert (status != 403) is may, (method, path, role, status)
        assert status != 401
        assert status < 500


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Bearer fleetflow_" + "0" * 64, "Basic YTpi", "fleetflow_"])
def test_a_wrong_token_sees_and_does_nothing(api: Api, routes: list[tuple[str, str]], header: str) -> None:
    for method, path in routes:
        answer = api.client.request(
            method, path.removeprefix(BASE).format(task=1, host="web1", name="x"), headers={"Authorization": header} if header else {}
        )
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_cookie_is_for_looking_alone(api: Api) -> None:
    cookie = {"Cookie": f"fleetflow={api.clear[Role.ADMIN]}"}
    assert api.client.get("/tasks", headers=cookie).status_code == 200
    assert api.client.post("/tasks", headers=cookie, json={"target": "web1", "command": "true"}).status_code == 401


def test_a_viewer_changes_nothing(api: Api, routes: list[tuple[str, str]]) -> None:
    def state() -> str:
        with sqlite3.connect(f"file:{api.hub.home / 'fleetflow.db'}?mode=ro", uri=True) as raw:
            lines = (line for line in raw.iterdump() if '"audit"' not in line)  # refusals stand there, as they must
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    api("POST", "/tasks", Role.OPERATOR, json={"target": "web1", "command": "true"}).raise_for_status()
    before = state()
    for method, path in routes:
        if not path.endswith(("events", "live")):
            api(
                method, path.removeprefix(BASE).format(task=1, host="web1", name="web1"), Role.VIEWER, json={} if method == "POST" else None
            )
    assert state() == before


def test_a_refusal_is_in_the_audit_trail_and_the_trail_is_whole(api: Api) -> None:
    api("POST", "/tasks/1/cancel", Role.VIEWER)
    newest = api("GET", "/audit", params={"limit": 1}).json()["items"][0]
    assert (newest["who"], newest["source"], newest["result"]) == ("token the-viewer", "127.0.0.1", "refused")
    assert newest["object"] == "/api/v1/tasks/1/cancel"
    assert Audit(api.store.access).verify()[1] == newest["digest"]


def test_what_the_api_takes_is_what_the_flows_take() -> None:
    shape = {name: field.get_default(call_default_factory=True) for name, field in NewTask.model_fields.items()}
    for flow in (run_command, run_script):
        for name, parameter in inspect.signature(flow.fn).parameters.items():
            assert name in shape
            if name not in {"target", "script"}:
                assert shape[name] == parameter.default, name


def test_a_task_has_its_number_and_its_rows_at_once(api: Api) -> None:
    answer = api("POST", "/tasks", Role.OPERATOR, json={"target": "@web,!web2", "command": "uptime", "timeout": 5, "max_failures": "50%"})
    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["location"] == f"{BASE}/tasks/{task['task']}"
    assert (task["state"], task["hosts"], task["created_by"], task["name"]) == ("pending", 2, "token the-operator", "uptime on @web,!web2")
    rows = api("GET", f"/tasks/{task['task']}/executions", Role.VIEWER).json()
    assert [(row["host"], row["state"]) for row in rows["items"]] == [("web1", "pending"), ("web3", "pending")]
    whole = api("GET", f"/tasks/{task['task']}", Role.VIEWER).json()
    assert whole["parameters"] == {"target": "@web,!web2", "command": "uptime", "timeout": 5, "max_failures": "50%"}
    entry = api("GET", "/audit", params={"limit": 1}).json()["items"][0]
    assert (entry["who"], entry["action"], entry["object"]) == ("token the-operator", "task.create", f"task {task['task']}")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "web1"}, "the command is empty"),
        ({"target": "web9", "command": "true"}, "unknown host 'web9'"),
        ({"target": "@web,!@web", "command": "true"}, "matches no host"),
        ({"target": "web1", "command": "true", "unknown": 1}, "unknown: Extra inputs"),
        ({"target": "web1", "command": "true", "timeout": -1}, "timeout:"),
        ({"target": "web1", "command": "true", "env": ["A"]}, "write NAME=value"),
        ({"target": "web1", "command": "true", "become_password": "hunter2", "become": True}, "name a secret of the worker"),
        ({"target": "web1", "command": "a\0b"}, "NUL byte"),
        ({"target": "web1", "command": "\ud800"}, "string"),
        ({"target": "web1", "command": "true", "waves": "nonsense"}, "waves"),
        ({"target": "web1", "script": "#!/bin/sh\ntrue", "script_name": "a\nb"}, "script_name"),
        ([], "List should have at least 1 item"),
        ([{"target": "web1", "command": "true"}, {"target": "web9", "command": "true"}], "unknown host 'web9'"),
    ],
)
def test_bad_input_makes_one_line_and_no_task(api: Api, asked: Any, says: str) -> None:
    before = api("GET", "/tasks", params={"limit": 1}).json()
    answer = api("POST", "/tasks", Role.OPERATOR, content=json.dumps(asked), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert api("GET", "/tasks", params={"limit": 1}).json() == before


def test_an_idempotency_key_makes_its_tasks_once_however_often_and_at_once_it_comes(api: Api) -> None:
    def send(**more: Any) -> httpx.Response:
        return api(
            "POST", "/tasks", Role.OPERATOR, json=[{"target": "web1", "command": "once"}] * 3, headers={"Idempotency-Key": "k1"} | more
        )

    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(send())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = {tuple(task["task"] for task in answer.json()) for answer in answers}
    assert len(numbers) == 1
    assert len(api("GET", "/tasks", params={"name": "once on", "limit": 50}).json()["items"]) == 3
    other = api("POST", "/tasks", Role.OPERATOR, json=[{"target": "web1", "command": "other"}], headers={"Idempotency-Key": "k1"})
    assert other.status_code == 409
    theirs = api("POST", "/tasks", Role.ADMIN, json={"target": "web1", "command": "other"}, headers={"Idempotency-Key": "k1"})
    assert theirs.status_code == 202, "another token's key is another key"


def test_a_scoped_token_is_a_webhook_for_its_own_command_on_its_own_hosts(api: Api) -> None:
    hook = api.scoped("hook", "@web", "deploy")
    made = api("POST", "/tasks", hook)
    assert made.status_code == 202
    assert (made.json()["name"], made.json()["hosts"]) == ("deploy on @web", 3)
    assert api("POST", "/tasks", hook, json={"target": "web2"}).json()["hosts"] == 1
    for more in (
        {"command": "rm"},
        {"target": "db1"},
        {"target": "web1,db1"},
        {"env": ["A=1"]},
        {"script": "#!/bin/sh\nrm"},
        {"user": "root"},
    ):
        assert api("POST", "/tasks", hook, json=more).status_code == 403, more
    mine = [task["created_by"] for task in api("GET", "/tasks", hook).json()["items"]]
    assert mine == ["token hook"] * 2
    assert api("GET", "/tasks/1", hook).status_code == 404
    assert api("POST", "/tasks/1/cancel", hook).status_code == 404
    assert api("GET", "/hosts", hook).status_code == 403
    api.tokens.revoke("hook", TESTS)
    assert api("GET", "/tasks", hook).status_code == 401
    again = api.scoped("hook", "@web", "deploy")
    assert api("GET", "/tasks", again).json()["items"] == [], "a name that is used again inherits nothing"


def test_lists_come_in_pages_and_by_filters(api: Api) -> None:
    numbers = [
        api("POST", "/tasks", json={"target": target, "command": f"paged{number}"}).json()["task"]
        for number, target in enumerate(["web1", "db1", "web1,db1", "web2", "web3"])
    ]
    seen: list[int] = []
    before = None
    while True:
        page = api("GET", "/tasks", params={"name": "paged", "limit": 2} | ({"before": before} if before else {})).json()
        seen += [task["task"] for task in page["items"]]
        if (before := page["next"]) is None:
            break
    assert seen == numbers[::-1]
    by_host = api("GET", "/tasks", params={"name": "paged", "host": "db1"}).json()["items"]
    assert [task["task"] for task in by_host] == [numbers[2], numbers[1]]
    api("POST", f"/tasks/{numbers[0]}/cancel", Role.OPERATOR)
    canceled = api("GET", "/tasks", params={"name": "paged", "state": "canceled"}).json()["items"]
    assert [(task["task"], task["reason"]) for task in canceled] == [(numbers[0], "canceled by token the-operator")]
    assert api("GET", "/tasks", params={"name": "paged", "created_by": "token nobody"}).json()["items"] == []
    assert api("GET", "/tasks", params={"name": "paged", "since": "2999-01-01T00:00:00Z"}).json()["items"] == []
    hosts = api("GET", "/hosts", params={"limit": 2, "group": "web"}).json()
    assert [host["name"] for host in hosts["items"]] == ["web1", "web2"]
    rest = api("GET", "/hosts", params={"limit": 2, "group": "web", "after": hosts["next"]}).json()
    assert ([host["name"] for host in rest["items"]], rest["next"]) == (["web3"], None)
    assert [host["name"] for host in api("GET", "/hosts", params={"tag": "dc=ams", "name": "3"}).json()["items"]] == ["web3"]


def test_output_comes_in_ranges_that_leave_characters_whole(api: Api) -> None:
    task = api.store.open_task(spec("web1"), OWNER)
    (claim,) = api.store.claim(task.id, OWNER)
    head, tail = "aé€😀".encode() * 3, b"\xff" + b"z" * 5
    api.store.write([Started(claim, 1.0), Printed(claim, (Piece(Stream.STDOUT, 0, head[:7]), Piece(Stream.STDOUT, 7, head[7:])))])
    where = f"/tasks/{task.id}/executions/web1/output"
    text, offset = "", 0
    for _ in range(20):
        part = api("GET", where, Role.VIEWER, params={"offset": offset, "limit": 5}).json()
        assert part["data_b64"] is None
        text, offset = text + part["text"], part["next"]
        if not part["text"]:
            break
    assert text == "aé€😀" * 3
    assert offset == len(head), "more may come"
    cut = {Stream.STDOUT: 100}
    end = Finished(claim, 2.0, S.RUNNING, Outcome(state=S.SUCCEEDED, exit_code=0), (Piece(Stream.STDOUT, len(head) + 100, tail),), cut)
    api.store.write([end])
    part = api("GET", where, Role.VIEWER, params={"offset": offset}).json()
    assert (part["left_out"], part["offset"], part["next"]) == (100, len(head) + 100, None)
    assert part["text"] == "\\xffzzzzz"
    assert part["data_b64"] == "/3p6enp6"
    assert api("GET", where, params={"attempt": 2}).status_code == 404
    assert [one["state"] for one in api("GET", f"/tasks/{task.id}/executions/web1/attempts").json()] == ["succeeded"]


def test_a_stream_tells_what_happens_until_the_end(api: Api) -> None:
    task = api.store.open_task(spec("web1", "web2"), OWNER)
    one, two = api.store.claim(task.id, OWNER)
    api.store.write([Started(one, 1.0), Started(two, 1.0), Printed(one, (Piece(Stream.STDOUT, 0, b"first\n"),))])
    heard: list[tuple[str, dict[str, Any]]] = []
    printed: list[tuple[str, dict[str, Any]]] = []
    headers = {"Authorization": f"Bearer {api.clear[Role.VIEWER]}"}

    def follow(path: str, into: list[tuple[str, dict[str, Any]]]) -> None:
        with httpx.stream("GET", f"{api.hub.url}/api/v1{path}", headers=headers, timeout=60, trust_env=False) as response:
            into.extend(events(response))

    def live(path: str, into: list[tuple[str, dict[str, Any]]]) -> threading.Thread:
        thread = threading.Thread(target=follow, args=(path, into))
        thread.start()
        return thread

    threads = [live(f"/tasks/{task.id}/events", heard), live(f"/tasks/{task.id}/executions/web1/output/live", printed)]
    time.sleep(0.7)  # so that the first look finds what is there now; nothing depends on it
    api.store.write([Printed(one, (Piece(Stream.STDOUT, 6, b"second\n"),))])
    now = time.time()
    api.store.write([Finished(one, now, S.RUNNING, Outcome(state=S.SUCCEEDED, exit_code=0), (), {})])
    api.store.write([Finished(two, now - 30, S.RUNNING, Outcome(state=S.FAILED, exit_code=3), (), {})])  # written late
    api.store.close_task(task.id)
    for thread in threads:
        thread.join(30)
    ends = sorted((data["host"], data["state"]) for kind, data in heard if kind == "execution")
    assert ends == [("web1", "succeeded"), ("web2", "failed")]
    assert heard[-1][0] == "end"
    assert heard[-1][1]["state"] == "failed"
    assert "".join(data["text"] for kind, data in printed if kind == "output") == "first\nsecond\n"
    assert printed[-1][0] == "end"


async def test_people_decide_about_agents_by_the_api(api: Api, client: httpx.AsyncClient) -> None:
    token = api("POST", "/agents/tokens", json={"uses": 1}).json()["token"]
    agent = SmallAgent(client, "by-api")
    assert (await agent.join(token)).json()["state"] == "pending"
    pending = api("GET", "/agents", Role.VIEWER, params={"state": "pending"}).json()["items"]
    assert [one["name"] for one in pending] == ["by-api"]
    assert agent.credential not in str(pending)
    approved = api("POST", "/agents/by-api/approve")
    assert (approved.status_code, approved.json()["decided_by"]) == (200, "token the-admin")
    entry = api.hub.home / "hosts.d" / "agents.yaml"
    until(lambda: entry.exists() and "by-api" in entry.read_text(), 10, "its entry in the inventory")
    assert api("POST", "/agents/by-api/reject").status_code == 409
    assert api("POST", "/agents/by-api/revoke").json()["state"] == AgentState.REVOKED
    assert api("POST", "/agents/by-api/revoke").status_code == 404


async def test_agents_of_one_name_are_all_listed_whatever_the_page(api: Api, client: httpx.AsyncClient) -> None:
    token = api("POST", "/agents/tokens", json={"uses": 3}).json()["token"]
    joined = [SmallAgent(client, "by-turns") for _ in range(3)]  # of one machine: each shuts out the one before
    for agent in joined:
        await agent.join(token)
    found, page = [], {"next": ""}
    while page["next"] is not None:
        page = api("GET", "/agents", params={"state": ["pending", "rejected"], "limit": 1, "after": page["next"]}).json()
        found += [one["id"] for one in page["items"] if one["name"] == "by-turns"]
    assert sorted(found) == sorted(agent.id for agent in joined)
    assert api("GET", "/agents", params={"after": "by-turns/x"}).status_code == 422


def test_bodies_are_bounded(api: Api) -> None:
    answer = api("POST", "/tasks", Role.OPERATOR, content=b"x" * (2 * 1024 * 1024))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_people_get_wrong_is_said_in_words(api: Api) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as `curl -d` sends it
    answer = api("POST", "/tasks", Role.OPERATOR, content=b'{"target": "web1", "command": "true"}', headers=form)
    assert answer.status_code == 202
    said = [
        (api("POST", "/tasks", Role.OPERATOR, content=b"{bad", headers=form), "the body is not JSON"),
        (api("GET", "/tasks", params={"status": "failed"}), "unknown parameter 'status'; there is before, created_by, "),
        (api("GET", "/hosts", params={"tag": "foo"}), "tag 'foo': write KEY=VALUE"),
        (api("POST", "/tasks", Role.OPERATOR, json={}, headers={"Idempotency-Key": "a b"}), "Idempotency-Key: give at most 200"),
    ]
    for wrong, words in said:
        assert wrong.status_code == 422
        assert words in wrong.json()["detail"]


def test_errors_outside_are_problems_too(api: Api) -> None:
    assert api("GET", "/nothing").json()["status"] == 404
    assert api("DELETE", "/tasks").json()["status"] == 405
    assert api("GET", "/tasks/0").status_code == 422
    assert api("GET", "/tasks/99999999999999999999999").status_code == 422


def test_the_whole_is_described(api: Api, routes: list[tuple[str, str]]) -> None:
    described = api("GET", "/openapi.json").json()
    found = [(method.upper(), path) for path, methods in described["paths"].items() for method in methods]
    assert sorted(found) == sorted(routes)
