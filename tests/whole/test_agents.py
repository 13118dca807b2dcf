"""Hosts with agents, through Prefect: alone, beside SSH hosts, and over the deaths of those in between."""

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.states import ExecutionState
from tests.servers.hub import RealAgent
from tests.servers.proxy import Proxy, run_proxy
from tests.stacks import Stack, new_word
from tests.troubles import run_agents, trouble
from tests.until import until

NUMBER = 12


@pytest.fixture(scope="module")
def proxy(stack: Stack) -> Iterator[Proxy]:
    with run_proxy(int(str(stack.state.hub_url).rpartition(":")[2])) as running:
        yield running


@pytest.fixture(scope="module")
def agents(stack: Stack, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealAgent]]:
    with run_agents(stack, proxy, tmp_path_factory.mktemp("agents"), NUMBER) as made:
        yield made


def test_many_agents_are_one_task(stack: Stack, agents: list[RealAgent]) -> None:
    done = stack("run", "echo $FLEETFLOW_ATTEMPT", "-t", f"agent[1-{NUMBER}]", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len({row["host"] for row in rows}) == len({row["stdout"] for row in rows}) == NUMBER


def test_a_mixed_task_is_one_task(stack: Stack, agents: list[RealAgent]) -> None:
    done = stack("run", 'echo hi; echo err >&2; exit $(test -z "$SSH_CONNECTION"; echo $?)', "-t", "agent[1-3],127.9.0.[1-3]", "--json")
    rows = {row["host"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert len(rows) == 6, done.stderr
    assert {(rows[f"agent{n}"]["state"], rows[f"agent{n}"]["stdout"], rows[f"agent{n}"]["stderr"]) for n in (1, 2, 3)} == {
        ("succeeded", "hi\n", "err\n")
    }
    assert {rows[f"127.9.0.{n}"]["exit_code"] for n in (1, 2, 3)} == {1}
    listed = {row["name"]: row for row in stack.rows("agent", "list")}
    assert listed["agent1"]["state"] == "approved"
    until(lambda: not _deliveries(stack), 10, "the end of every delivery")


def test_that_an_agent_came_is_an_event(stack: Stack, agents: list[RealAgent]) -> None:
    came = {"filter": {"event": {"name": ["fleetflow.agent.online"]}}, "limit": 50}

    def names() -> set[str]:
        return {event["payload"]["agents"] for event in stack.api("POST", "/events/filter", came)["events"]}

    until(lambda: {f"agent{n}" for n in range(1, NUMBER + 1)} <= names(), 30, "an event for each", every=0.5)


def test_an_agent_that_is_not_there_is_unreachable(stack: Stack, agents: list[RealAgent]) -> None:
    agents[1].stop()
    try:
        done = stack("run", "true", "-t", "agent[1-2]", "--connect-timeout", "1", "--json")
        rows = {row["host"]: row for row in map(json.loads, done.stdout.splitlines())}
        assert rows["agent1"]["state"] == "succeeded"
        assert (rows["agent2"]["state"], rows["agent2"]["error"]) == ("unreachable", "no answer within 1 s (waiting for its agent)")
    finally:
        agents[1].start()


def test_the_deaths_of_hub_agent_and_worker_lose_nothing(stack: Stack, agents: list[RealAgent], tmp_path: Path) -> None:
    word = new_word()
    (tmp_path / "starts").touch()
    script = f"echo {word} >>{tmp_path}/starts; echo begin; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo end"
    assert stack("run", script, "-t", "agent[1-3]", "--on-disconnect", "end", "--no-wait").returncode == 0
    until(lambda: (tmp_path / "starts").read_text().count(word) == 3, 30, "three starts")
    task = stack.newest()
    processes = stack.status["processes"]
    os.kill(processes["hub"], signal.SIGKILL)
    agents[0].kill()
    os.kill(processes["worker"], signal.SIGKILL)
    agents[0].start()
    (tmp_path / "go").touch()
    until(lambda: stack.newest().state.is_final, 90, "the end of the task")
    executions = stack.executions(task.id)
    assert {execution.state for execution in executions.values()} == {ExecutionState.SUCCEEDED}, executions
    assert {stack.output(execution) for execution in executions.values()} == {b"begin\nend\n"}
    assert (tmp_path / "starts").read_text().count(word) == 3, "a command ran twice"


def test_a_stack_that_is_upgraded_leaves_commands_running_and_follows_them(stack: Stack, agents: list[RealAgent], tmp_path: Path) -> None:
    word = new_word()
    (tmp_path / "starts").touch()
    script = f"echo {word} >>{tmp_path}/starts; echo begin; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo end"
    assert stack("run", "sleep 300", "-t", "localhost,agent3", "--no-wait").returncode == 0

    def cannot_go_on() -> int | None:
        with closing(stack.store()) as store:
            newest = store.tasks(1)
        local = stack.executions(newest[0].id).get("localhost") if newest else None
        return newest[0].id if local and local.state is ExecutionState.RUNNING else None

    doomed = until(cannot_go_on, 30, "what cannot go on")
    assert doomed is not None
    assert stack("run", script, "-t", "agent[1-2]", "--no-wait").returncode == 0
    until(lambda: (tmp_path / "starts").read_text().count(word) == 2, 30, "two starts")
    task = stack.newest()
    assert stack("down", "--keep-running").returncode == 0
    assert not stack.newest().state.is_final
    (tmp_path / "go").touch()  # their ends find no hub
    up = stack("up", "-d")
    assert up.returncode == 0, up.stderr
    assert stack.ended(task.flow_run_id, 90)["state"]["type"] == "COMPLETED"
    assert {stack.output(execution) for execution in stack.executions(task.id).values()} == {b"begin\nend\n"}
    assert (tmp_path / "starts").read_text().count(word) == 2, "a command ran twice"
    assert {one.state for one in stack.executions(doomed).values()} == {ExecutionState.CANCELED}, "localhost ends with its worker"


def test_what_a_bad_network_and_deaths_do_together_breaks_nothing(
    stack: Stack, agents: list[RealAgent], proxy: Proxy, tmp_path: Path
) -> None:
    round_ = trouble(stack, agents, proxy, tmp_path / "round", random.Random(7), kills=6)  # noqa: S311 - the same moments each time
    assert not round_.found, round_
    assert "lost" not in round_.states, "the hosts could tell"


def test_an_agent_comes_over_ssh_is_upgraded_under_a_command_and_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    install = ("agent", "install", "-t", "127.9.1.1,127.9.1.2:1", "--folder", str(folder))
    done = stack(*install)
    assert (done.returncode, done.stdout) == (
        1,
        "127.9.1.1: agent 127.9.1.1 is installed; it will not survive a reboot: there is no systemd to start it\n",
    ), done.stderr
    assert "127.9.1.2:1: unreachable: " in done.stderr
    until(lambda: _listed(stack, "127.9.1.1")["presence"] == "online", 60, "the agent's first call")
    assert stack("agent", "rotate", "127.9.1.1").stdout == "new credentials for 127.9.1.1\n"
    until(lambda: _listed(stack, "127.9.1.1")["generation"] == 2, 30, "the new credential")
    credential = json.loads((folder / "identity").read_text())["credential"].encode()
    assert not [path for path in stack.home.rglob("*") if path.is_file() and credential in path.read_bytes()], "it never leaves its host"
    script = f"echo begin${{SSH_CONNECTION}}; touch {tmp_path}/began; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo end"
    assert stack("run", script, "-t", "127.9.1.1", "--no-wait").returncode == 0
    until((tmp_path / "began").exists, 30, "the command")
    task, service = stack.newest(), int((folder / "lock").read_text())
    assert stack(*install).returncode == 1
    assert int((folder / "lock").read_text()) != service, "the newer program runs"
    (tmp_path / "go").touch()
    until(lambda: stack.newest().id != task.id and _is_final(stack, task.id), 60, "the command's end")
    (execution,) = stack.executions(task.id).values()
    assert (execution.state, stack.output(execution)) == (ExecutionState.SUCCEEDED, b"begin\nend\n")
    gone = stack("agent", "remove", "-t", "127.9.1.1", "--folder", str(folder))
    assert (gone.returncode, gone.stdout) == (0, "127.9.1.1: removed\n"), gone.stderr
    assert not folder.exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _read(path)], "something of it runs"
    assert [row["state"] for row in stack.rows("agent", "list", "--state", "revoked") if row["name"] == "127.9.1.1"] == ["revoked"]
    assert "127.9.1.1" not in {row["name"] for row in stack.rows("host", "list")}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _listed(stack: Stack, name: str) -> dict[str, Any]:
    return next(row for row in stack.rows("agent", "list") if row["name"] == name)


def _is_final(stack: Stack, task: int) -> bool:
    store = stack.store()
    try:
        return store.task(task).state.is_final
    finally:
        store.close()


def _deliveries(stack: Stack) -> int:
    import sqlite3

    with sqlite3.connect(stack.home / "fleetflow.db") as connection:
        count: int = connection.execute("SELECT count(*) FROM delivery").fetchone()[0]
    connection.close()
    return count
