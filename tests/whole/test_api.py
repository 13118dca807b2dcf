"""Tasks from the REST API, through Prefect to their hosts."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from models import bells, durations
from models.durations import Durations
from tests.hub.api import events
from tests.stacks import Stack, marked, new_word
from tests.until import until

FINAL = {"succeeded", "failed", "canceled"}


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    done = stack("token", "create", "api", "--role", "operator")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def api(stack: Stack, token: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{stack.state.hub_url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    ) as client:
        yield client


def create(api: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = api.post("/tasks", json={"target": "localhost"} | asked)
    assert answer.status_code == 202, answer.text
    task: dict[str, Any] = answer.json()
    return task


def ended(api: httpx.Client, task: int, seconds: float = 60) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = api.get(f"/tasks/{task}").json()
        return found if found["state"] in FINAL else None

    found = until(look, seconds, f"the end of task {task}", every=0.1)
    assert found is not None
    return found


def took(stack: Stack) -> Mapping[tuple[str, str], Durations]:
    with closing(stack.store()) as store, store.access.reading() as connection:
        return durations.read(connection)


def test_a_flow_run_made_by_prefects_api_wakes_the_worker(stack: Stack) -> None:
    with bells.listen(stack.home, bells.Kind.POLL) as bell:
        run = stack.create_run(command="true")
        until(lambda: bells.heard(bell), 10, "the ring of Prefect's server")
    assert stack.ended(run)["state"]["type"] == "COMPLETED"


def test_a_task_runs_as_a_flow_run_and_is_followed_to_its_end(stack: Stack, api: httpx.Client) -> None:
    task = create(api, target="127.0.0.[1-3],localhost", command="echo one; sleep 1; echo two; test $HOME != /nowhere")["task"]
    with api.stream("GET", f"/tasks/{task}/events") as stream:
        heard = list(events(stream))
    assert heard[-1][0] == "end"
    assert heard[-1][1]["counts"]["succeeded"] == 4
    assert len([1 for kind, _ in heard if kind == "execution"]) == 4
    assert api.get(f"/tasks/{task}/executions/127.0.0.2/output").json()["text"] == "one\ntwo\n"
    assert {("ssh", "succeeded"), ("local", "succeeded")} <= set(took(stack)), "each command was counted by its executor"
    shown = api.get(f"/tasks/{task}").json()
    run = stack.ended(shown["flow_run"])
    assert run["state"]["type"] == "COMPLETED"
    assert {"fleetflow-by:token api", f"fleetflow-task:{task}"} <= set(run["tags"])
    assert stack.rows("task", "list", "--limit", "1")[0]["created_by"] == "token api"


def test_output_is_followed_while_the_command_runs_and_a_cancel_ends_it(stack: Stack, api: httpx.Client) -> None:
    word = new_word()
    task = create(api, command="echo here; sleep 300", env=[f"WORD={word}"])["task"]
    until(lambda: api.get(f"/tasks/{task}/progress").json()["counts"]["running"], 60, "the command to run", every=0.1)
    with api.stream("GET", f"/tasks/{task}/executions/localhost/output/live") as stream:
        heard = events(stream)
        assert next(heard)[1]["text"] == "here\n"
        assert api.post(f"/tasks/{task}/cancel").status_code == 202
        kind, last = next(heard)
    assert (kind, last["state"]) == ("end", "canceled")
    assert ended(api, task)["reason"] == "canceled by token api"
    assert not marked(word)
    assert api.post(f"/tasks/{task}/cancel").json()["state"] == "canceled", "once more changes nothing"
    again = api.post(f"/tasks/{task}/retry", json={"kinds": ["all"]})
    assert again.status_code == 202
    assert again.json()["retry_of"] == task
    api.post(f"/tasks/{again.json()['task']}/cancel")
    assert ended(api, again.json()["task"])["state"] == "canceled"
    until(lambda: not marked(word), 10, "the end of what the second one ran")


def test_many_tasks_at_once_each_run_once(stack: Stack, api: httpx.Client) -> None:
    asked = [{"target": "localhost", "command": f"echo {number}"} for number in range(12)]
    with ThreadPoolExecutor(3) as pool:  # the same request, three times at once
        answers = list(pool.map(lambda _: api.post("/tasks", json=asked, headers={"Idempotency-Key": "many"}).json(), range(3)))
    numbers = [task["task"] for task in answers[0]]
    assert [[task["task"] for task in answer] for answer in answers] == [numbers] * 3
    for number, task in enumerate(numbers):
        assert ended(api, task, 90)["state"] == "succeeded"
        (attempt,) = api.get(f"/tasks/{task}/executions/localhost/attempts").json()
        assert attempt["attempt"] == 1
        assert api.get(f"/tasks/{task}/executions/localhost/output").json()["text"] == f"{number}\n"


def test_a_task_whose_flow_run_ends_without_it_ends_too(stack: Stack, api: httpx.Client) -> None:
    task = create(api, command="true", credentials="no-such-block")["task"]
    shown = ended(api, task)
    assert shown["state"] == "canceled"
    assert "no-such-block" in shown["reason"]
