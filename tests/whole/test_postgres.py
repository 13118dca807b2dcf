"""A stack whose tasks are in PostgreSQL, with a second hub of another home on the same database."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers.hub import Hub, RealAgent, run_hub
from tests.servers.postgres import PostgresServer
from tests.servers.relay import Relay, run_relay
from tests.servers.sshd import Sshd
from tests.stacks import Stack, run_stack
from tests.until import until

SECRET = "canary-of-the-other-hub-51d0"


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database(empty=True) as url:
        yield url


@pytest.fixture(scope="module")
def fleet(url: str, sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It makes its tables itself."""
    home = tmp_path_factory.mktemp("postgres") / "home"
    with run_stack(home, sshd, FLEETFLOW_DATABASE_URL=url, FLEETFLOW_SECRET_WORD=SECRET) as stack:
        yield stack


@pytest.fixture(scope="module")
def second(url: str, fleet: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub of another machine: it has the key of the first, and can ring nobody."""
    home = tmp_path_factory.mktemp("second")
    shutil.copy(fleet.home / "bus.key", home)
    with run_hub(home, FLEETFLOW_DATABASE_URL=url) as hub:
        yield hub


@pytest.fixture(scope="module")
def way(fleet: Stack) -> Iterator[Relay]:
    """The address of both hubs."""
    with run_relay(int(str(fleet.state.hub_url).rpartition(":")[2])) as relay:
        yield relay


@pytest.fixture(scope="module")
def agent(fleet: Stack, way: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAgent]:
    agent = RealAgent(tmp_path_factory.mktemp("agents") / "agent1", "agent1")
    agent.join(f"http://127.0.0.1:{way.port}", fleet("agent", "token", "--approve").stdout.strip())
    agent.start()
    until(lambda: fleet.rows("host", "list", "agent1"), 30, "the agent in the inventory", every=0.2)
    yield agent
    agent.stop()


def test_a_task_runs_and_is_told_of(fleet: Stack) -> None:
    done = fleet("run", "echo hi; echo err >&2; exit $(test $HOME = /root; echo $?)", "-t", "localhost,127.9.0.[1-3]", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["host"] for row in rows} == {"localhost", "127.9.0.1", "127.9.0.2", "127.9.0.3"}, done.stderr
    assert {(row["state"], row["stdout"], row["stderr"]) for row in rows} == {("succeeded", "hi\n", "err\n")}
    assert fleet.rows("task", "list")[0]["state"] == "succeeded"
    assert not (fleet.home / "fleetflow.db").exists()


def test_a_task_of_the_api_runs_by_any_hub(fleet: Stack, second: Hub) -> None:
    token = fleet("token", "create", "api", "--role", "operator").stdout.strip()
    with httpx.Client(base_url=f"{second.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False) as api:
        asked = api.post("/tasks", json={"target": "127.9.0.1", "command": "echo by the second"}, headers={"Idempotency-Key": "once"})
        assert asked.status_code == 202, asked.text
        task = asked.json()["task"]
        until(lambda: api.get(f"/tasks/{task}").json()["state"] == "succeeded", 60, "the end of the task", every=0.1)
        assert api.get(f"/tasks/{task}/executions/127.9.0.1/output").json()["text"] == "by the second\n"


def test_an_agent_moves_between_the_hubs(fleet: Stack, second: Hub, agent: RealAgent, way: Relay, tmp_path: Path) -> None:
    """A command that begins under one hub ends under the other, which then brings the next one, with its secret, and takes its result."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    script = f"echo one; touch {begun}; until [ -e {go} ]; do sleep 0.1; done; echo two"
    assert fleet("run", script, "-t", "agent1", "--no-wait").returncode == 0
    until(begun.exists, 30, "the command to begin")
    _move(way, second.url)
    go.touch()
    until(lambda: fleet.newest().state.is_final, 30, "its end")
    assert fleet.output(fleet.executions(fleet.newest().id)["agent1"]) == b"one\ntwo\n"
    done = fleet("run", "echo $WORD | wc -c", "-t", "agent1", "--env", "WORD=secret:WORD", "--json")
    assert json.loads(done.stdout)["stdout"].strip() == str(len(SECRET) + 1), done.stderr
    _move(way, str(fleet.state.hub_url))
    assert json.loads(fleet("run", "echo back", "-t", "agent1", "--json").stdout)["stdout"] == "back\n"


def test_a_server_that_is_stopped_and_started_under_a_task_costs_time_alone(
    fleet: Stack, agent: RealAgent, postgres: PostgresServer, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    script = f"echo one; echo >>{begun}; until [ -e {go} ]; do sleep 0.1; done; echo two"
    assert fleet("run", script, "-t", "agent1,localhost,127.9.0.1", "--no-wait").returncode == 0
    until(lambda: begun.exists() and begun.read_text().count("\n") == 3, 30, "the commands to begin")
    postgres.stop()
    go.touch()  # their ends are told while nobody can store them
    refused = fleet("task", "list")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (4, 1), refused.stderr
    postgres.start()
    until(lambda: fleet.newest().state.is_final, 60, "the end of the task")
    assert {host: fleet.output(execution) for host, execution in fleet.executions(fleet.newest().id).items()} == dict.fromkeys(
        ("agent1", "localhost", "127.9.0.1"), b"one\ntwo\n"
    )
    assert begun.read_text().count("\n") == 3, "each ran once"


def _move(way: Relay, hub: str) -> None:
    way.target = int(hub.rpartition(":")[2])
    way.reset()
    polls = "fleetflow_open_polls 1.0"
    until(lambda: polls in httpx.get(f"{hub}/metrics", trust_env=False).text, 30, "the agent to call the other hub", every=0.2)
