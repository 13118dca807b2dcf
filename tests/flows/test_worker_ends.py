"""How a worker ends, and what the next one does with what it left."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.owner import Owner
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker, run_worker
from tests.stacks import marked, new_word
from tests.until import until


@pytest.fixture
def doomed(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Worker]:
    """A worker that the test ends."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "fleetflow.toml").write_text("approve_pattern = 'approve-me'\n")
    with run_worker(prefect_server, tmp_path / "home") as running:
        yield running


def _begin(worker: Worker, flow: str, file: Path) -> str:
    run = worker.trigger(flow, file=str(file))
    until(Path(f"{file}.started").exists, 20, "the run to start")
    return run


def _states(store: Store, flow_run_id: str) -> tuple[str, list[str]] | None:
    task = store.task_of_flow_run(uuid.UUID(flow_run_id))
    return (task.state, [execution.state for execution in store.executions(task.id)]) if task else None


def test_a_terminated_worker_lets_runs_end_cancels_the_rest_and_exits_0(doomed: Worker, tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    ends, runs_on = _begin(doomed, "wait_for", short), _begin(doomed, "wait_for", long)
    assert doomed.process is not None
    doomed.process.send_signal(signal.SIGTERM)
    short.touch()
    assert doomed.process.wait(30) == 0
    assert doomed.flow_run(ends)["state_type"] == "COMPLETED"
    state = doomed.flow_run(runs_on)["state"]
    assert (state["type"], state["message"]) == ("CANCELLED", "canceled, because the worker was stopped")
    assert Path(f"{long}.cancelled").exists(), "the flow could clean up"
    assert not (doomed.home / "worker.sock").exists()


@pytest.mark.slow
def test_an_idle_worker_exits_at_once(doomed: Worker) -> None:
    assert doomed.terminate(10) == 0


def test_a_second_signal_ends_the_worker_at_once_and_its_successor_ends_the_run(doomed: Worker, tmp_path: Path) -> None:
    run = _begin(doomed, "stubborn", tmp_path / "file")
    assert doomed.process is not None
    doomed.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in doomed.log)
    doomed.process.send_signal(signal.SIGTERM)
    assert doomed.process.wait(5) == 1
    doomed.start()
    assert doomed.end_of(run)["state_type"] == "CRASHED"


def test_a_killed_worker_leaves_nothing_that_its_successor_does_not_end(doomed: Worker, tmp_path: Path) -> None:
    runs_on, cancelling = _begin(doomed, "wait_for", tmp_path / "a"), _begin(doomed, "wait_for", tmp_path / "b")
    task = doomed.run_command("sleep 60", on_disconnect="end")
    store = Store.open(f"sqlite:///{doomed.home / 'fleetflow.db'}")
    until(lambda: _states(store, task) == ("running", ["running"]), 20, "the command to run")
    waits = doomed.begin(command=": approve-me", on_disconnect="end")
    until(lambda: doomed.flow_run(waits)["state_type"] == "PAUSED", 20, "the question")
    doomed.kill()
    doomed.cancel(cancelling)
    doomed.start()
    state = doomed.end_of(runs_on)["state"]
    assert (state["type"], state["message"]) == ("CRASHED", "The worker that ran this flow run stopped before its end")
    assert doomed.end_of(cancelling)["state_type"] == "CANCELLED"
    assert doomed.end_of(task)["state_type"] == "CRASHED"
    assert _states(store, task) == ("failed", ["lost"])
    assert doomed.end_of(waits)["state_type"] == "CRASHED"
    assert _states(store, waits) == ("canceled", ["canceled"])
    store.close()
    assert doomed.run("quick")["state_type"] == "COMPLETED"


def test_a_run_that_was_claimed_and_never_begun_runs_on_the_successor(doomed: Worker) -> None:
    owner = Owner.load(doomed.home)  # an incarnation that dies between its claim and the start
    doomed.kill()
    run = doomed.trigger("quick")
    claim = {"type": "PENDING", "name": "Pending", "message": f"Taken by worker {owner}"}
    doomed.server.post(f"/flow_runs/{run}/set_state", state=claim)
    doomed.start()
    assert doomed.end_of(run)["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_what_another_home_runs_is_left_alone(doomed: Worker, prefect_server: PrefectServer, tmp_path: Path) -> None:
    run = _begin(doomed, "wait_for", tmp_path / "file")
    other = Worker(prefect_server, tmp_path / "other", pool=doomed.pool)
    other.home.mkdir()
    process = other.spawn()  # its database is another one: in a stack of ours that is mended, not refused
    try:
        until(lambda: other.is_ready(process), 60)
        assert doomed.flow_run(run)["state_type"] == "RUNNING"
    finally:
        process.kill()
        process.wait()
    (tmp_path / "file").touch()
    assert doomed.end_of(run)["state_type"] == "COMPLETED"


def test_a_home_has_one_worker(doomed: Worker) -> None:
    second = doomed.spawn()
    assert second.wait(60) == 4
    assert doomed.process is not None
    assert f"already has a worker (process {doomed.process.pid})" in doomed.log.splitlines()[-1]
    assert doomed.run("quick")["state_type"] == "COMPLETED"


def test_a_worker_ends_with_the_process_that_started_it(doomed: Worker) -> None:
    assert doomed.process is not None
    os.close(doomed._lifeline)
    assert doomed.process.wait(10) == 0
    doomed._lifeline = os.open("/dev/null", os.O_RDONLY)


@pytest.mark.slow
def test_a_home_with_a_long_path_has_a_socket_too(prefect_server: PrefectServer, tmp_path: Path) -> None:
    with run_worker(prefect_server, tmp_path / ("long" * 30) / ("er" * 30)) as worker:
        assert worker.ask({"watch": worker.trigger("quick")}) is not None


@pytest.mark.slow
def test_prefects_own_command_starts_a_further_worker_of_the_same_home(prefect_server: PrefectServer, tmp_path: Path) -> None:
    with run_worker(prefect_server, tmp_path / "home") as worker:
        assert worker.process is not None
        prefect = shutil.which("prefect", path=str(Path(sys.executable).parent))
        assert prefect is not None
        command = [prefect, "worker", "start", "--pool", worker.pool, "--type", "fleetflow", "--name", "by hand"]
        with (tmp_path / "log").open("wb") as log:
            by_hand = subprocess.Popen(command, env=worker.environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            until(lambda: "'by hand' started!" in (tmp_path / "log").read_text(), 60, "the further worker")
            assert "by polling" in " ".join((tmp_path / "log").read_text().split()), "one of them has the socket"
            worker.process.send_signal(signal.SIGSTOP)
            run = _begin(worker, "wait_for", tmp_path / "file")  # so that it is the further one that takes it
            worker.process.send_signal(signal.SIGCONT)
            assert int(_life(worker, run).read_text()) == by_hand.pid
            worker.kill()
            worker.start()
            assert worker.flow_run(run)["state_type"] == "RUNNING", "a restart leaves alone what a living worker of its home runs"
            by_hand.kill()
            by_hand.wait()
            assert worker.end_of(run, 12)["state_type"] == "CRASHED", "its lock says at once that it has died"
            assert worker.run("quick")["state_type"] == "COMPLETED"
        finally:
            by_hand.kill()
            by_hand.wait()


@pytest.mark.slow
def test_a_worker_that_slept_through_its_lease_writes_nothing_when_it_wakes(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """Another worker on the same database has ended what it ran, and says so; it ends its commands, and itself."""
    database = {"FLEETFLOW_DATABASE_URL": f"sqlite:///{tmp_path / 'shared.db'}", "FLEETFLOW_LEASE": "2"}
    word = new_word()
    with run_worker(prefect_server, tmp_path / "sleeper", **database) as sleeper, _second_of(sleeper, tmp_path / "other") as other:
        runs_on = sleeper.run_command("echo begun; sleep 60", env=[f"WORD={word}"], on_disconnect="end")
        store = Store.open(sleeper.database)
        until(lambda: _states(store, runs_on) == ("running", ["running"]), 30, "the command to run")
        until(lambda: other.is_ready(other.process), 60)  # type: ignore[arg-type]  # it was spawned
        first, second = (sleeper, other) if _life(sleeper, runs_on).exists() else (other, sleeper)
        assert first.process is not None
        first.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        state = second.end_of(runs_on, 20)["state"]
        assert time.monotonic() - began < 2 + 10
        assert (state["type"], state["message"]) == ("CRASHED", "The worker that ran this flow run stopped before its end")
        assert _states(store, runs_on) == ("failed", ["lost"])
        task = store.task_of_flow_run(uuid.UUID(runs_on))
        assert task is not None
        before = (task, store.executions(task.id), second.flow_run(runs_on)["state"]["id"])
        assert before[1][0].error == "its worker died"
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(30) == 1
        assert "taken for dead" in first.log
        assert not marked(word), "its command ended with it"
        assert (store.task(task.id), store.executions(task.id), second.flow_run(runs_on)["state"]["id"]) == before
        assert second.run("quick")["state_type"] == "COMPLETED"
        store.close()
        second.kill()


@contextmanager
def _second_of(worker: Worker, home: Path) -> Iterator[Worker]:
    """A worker on the same database and pool, which need not be ready yet."""
    home.mkdir()
    other = Worker(worker.server, home, pool=worker.pool, settings=worker.settings)
    process = other.process = other.spawn()
    try:
        yield other
    finally:
        process.kill()
        process.wait()


def _life(worker: Worker, flow_run_id: str) -> Path:
    """The lock of the process that runs a flow run, if it is one of `worker`'s home."""
    incarnation = worker.flow_run(flow_run_id)["infrastructure_pid"].rpartition(":")[2]
    return worker.home / "workers" / str(incarnation)
