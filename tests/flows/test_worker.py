"""What a worker does with the flow runs that come to it."""

import contextlib
import json
import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from models.owner import Owner
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker
from tests.until import until

OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "2"))  # of Prefect's server; a soak may take a minute


def test_a_flow_run_ends_completed_under_its_own_name(worker: Worker) -> None:
    run = worker.run("quick", text="hello")
    assert (run["state_type"], run["name"]) == ("COMPLETED", "quick hello")


def test_a_flow_run_carries_the_home_of_the_worker_that_ran_it(worker: Worker) -> None:
    assert Owner.load(worker.home).same_home(worker.run("quick")["infrastructure_pid"])


def test_what_a_flow_logs_is_found_in_prefect(worker: Worker) -> None:
    run = worker.run("quick", text="something to find")
    wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    until(
        lambda: any("said something to find" in log["message"] for log in worker.server.post("/logs/filter", **wanted)), 10, "the log line"
    )


def test_tasks_run_side_by_side_in_the_worker(worker: Worker) -> None:
    run = worker.run("shards", number=8, seconds=3)
    assert run["state_type"] == "COMPLETED"
    assert run["total_run_time"] < 20  # 24 s one after another
    wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    until(lambda: [task["state_type"] for task in worker.server.post("/task_runs/filter", **wanted)] == ["COMPLETED"] * 8, 60, "task runs")


@pytest.mark.parametrize(
    ("flow", "state", "message"),
    [
        ("fails", "FAILED", "the disk is on fire"),
        ("exits", "FAILED", "the flow tried to end its process: SystemExit(3)"),
        ("exits_in_a_task", "FAILED", "the flow tried to end its process: SystemExit(4)"),
        ("not_async", "FAILED", "is not async"),
        ("not_a_flow", "CRASHED", "is not a flow"),
        ("missing", "CRASHED", "cannot be loaded"),
    ],
)
def test_a_flow_that_goes_wrong_ends_alone_and_says_why(worker: Worker, flow: str, state: str, message: str) -> None:
    run = worker.run(flow)
    assert run["state_type"] == state
    assert message in run["state"]["message"]
    assert worker.run("quick")["state_type"] == "COMPLETED"


def test_a_run_that_is_deleted_under_way_harms_nobody(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "file"
    run = worker.trigger("wait_for", file=str(file))
    until(Path(f"{file}.started").exists, 20, "the run to start")
    until(lambda: worker.server.api.delete(f"/flow_runs/{run}").is_success)
    file.touch()
    assert worker.run("quick")["state_type"] == "COMPLETED"


# The socket


def test_the_socket_says_how_a_run_ended(worker: Worker) -> None:
    run = worker.trigger("quick")
    ended = {"flow_run_id": run, "state": "COMPLETED", "name": "Completed", "message": None}
    assert worker.ask({"watch": run}) == ended
    assert worker.ask({"watch": run}) == ended, "asked again after its end"


def test_one_connection_can_watch_many_runs(worker: Worker) -> None:
    runs = {worker.trigger("quick", text=str(number)) for number in range(3)}
    with worker.connection() as client:
        client.sendall(b"".join(json.dumps({"watch": run}).encode() + b"\n" for run in runs))
        lines = client.makefile("rb")
        assert {json.loads(lines.readline())["flow_run_id"] for _ in runs} == runs


def test_the_socket_says_who_the_worker_is(worker: Worker) -> None:
    assert worker.process is not None
    answer = worker.ask({"ping": True})
    assert answer is not None
    assert (answer["pid"], answer["home"]) == (worker.process.pid, str(worker.home))


def test_a_run_of_somebody_else_is_never_answered(worker: Worker) -> None:
    assert worker.ask({"watch": str(uuid.uuid4())}, seconds=1.5) is None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\n", b"hello\n", b"[]\n", b"{}\n", b'{"watch": 7}\n', b'{"watch": null}\n', b"\xff\x00\n", b"[" * 4000 + b"\n", b"x" * 100_000],
)
def test_garbage_on_the_socket_harms_nobody(worker: Worker, garbage: bytes) -> None:
    with worker.connection(5) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert worker.ask({"ping": True}) is not None


def test_clients_that_say_nothing_do_not_keep_others_out(worker: Worker) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for client in silent:
        client.connect(str(worker.home / "worker.sock"))
    assert worker.ask({"ping": True}) is not None
    for client in silent:
        client.close()


def test_the_socket_is_for_its_user_alone(worker: Worker) -> None:
    assert (worker.home / "worker.sock").stat().st_mode & 0o777 == 0o600
    assert worker.home.stat().st_mode & 0o777 == 0o700


# Cancelling


def test_a_cancel_ends_one_run_and_leaves_the_others(worker: Worker, tmp_path: Path) -> None:
    wanted, other = tmp_path / "wanted", tmp_path / "other"
    cancelled, left = worker.trigger("wait_for", file=str(wanted)), worker.trigger("wait_for", file=str(other))
    until(lambda: Path(f"{wanted}.started").exists() and Path(f"{other}.started").exists(), 20, "both runs to start")
    worker.cancel(cancelled)
    run = worker.end_of(cancelled, 10)
    assert (run["state_type"], run["state"]["message"]) == ("CANCELLED", "canceled")
    assert Path(f"{wanted}.cancelled").exists(), "the flow could clean up"
    other.touch()
    assert worker.end_of(left)["state_type"] == "COMPLETED"
    assert worker.ask({"watch": cancelled}) == {"flow_run_id": cancelled, "state": "CANCELLED", "name": "Cancelled", "message": "canceled"}


def test_a_run_that_is_given_a_final_state_by_hand_is_cancelled_too(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "file"
    run = worker.trigger("wait_for", file=str(file))
    until(Path(f"{file}.started").exists, 20, "the run to start")
    worker.server.post(f"/flow_runs/{run}/set_state", state={"type": "FAILED", "name": "Failed"}, force=True)
    until(Path(f"{file}.cancelled").exists, 10, "the flow to be cancelled")
    assert worker.run("quick")["state_type"] == "COMPLETED"


def test_a_run_to_cancel_that_nobody_runs_ends_cancelled(worker: Worker) -> None:
    run = worker.run("quick")["id"]
    for kind in ("SCHEDULED", "CANCELLING"):  # as a run that waits for a retry next year is cancelled
        details = {"scheduled_time": "2099-01-01T00:00:00Z"} if kind == "SCHEDULED" else {}
        worker.server.post(f"/flow_runs/{run}/set_state", state={"type": kind, "state_details": details}, force=True)
    assert worker.end_of(run)["state_type"] == "CANCELLED"


# Turns


def test_five_runs_at_once_wait_for_their_turn_oldest_first_and_say_so(worker: Worker, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    runs = [worker.trigger("wait_for", file=str(file)) for file in files]
    until(lambda: all(Path(f"{file}.started").exists() for file in files[:4]), 20, "the first four to start")
    until(lambda: [worker.flow_run(run)["state_name"] for run in runs[4:]] == ["Waiting"] * 2, 20, "the others to be told")
    waiting = worker.flow_run(runs[4])["state"]
    assert waiting["type"] == "SCHEDULED"
    assert "Waits for its turn" in waiting["message"]
    urgent = worker.start_deployment("tests.flows.tiny.quick", tags=("maintenance",))
    assert worker.end_of(urgent)["state_type"] == "COMPLETED", "maintenance does not wait for people's runs"
    files[0].touch()
    until(Path(f"{files[4]}.started").exists, 10, "the oldest of those that wait")
    assert not Path(f"{files[5]}.started").exists()
    worker.cancel(runs[5])
    assert worker.end_of(runs[5])["state_type"] == "CANCELLED", "one that waits can be cancelled"
    for file in files[1:5]:
        file.touch()
    assert [worker.end_of(run)["state_type"] for run in runs[:5]] == ["COMPLETED"] * 5
    assert not Path(f"{files[5]}.started").exists()


def test_the_flow_that_reaps_says_what_it_found(worker: Worker) -> None:
    run = worker.end_of(worker.start_deployment("flows.maintenance.reap_lost"))
    assert (run["state_type"], run["state"]["message"]) == ("COMPLETED", "nobody has died")


# Schedules


def test_a_cron_schedule_runs_again_and_again(worker: Worker) -> None:
    every_two_seconds = {"schedule": {"cron": "* * * * * */2", "timezone": "UTC"}, "active": True}
    deployment = worker.deploy("tests.flows.tiny.quick", schedules=[every_two_seconds])
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: len(worker.server.post("/flow_runs/filter", **wanted)) >= 2, 60, "two runs of the schedule")
    assert worker.server.api.delete(f"/deployments/{deployment}").is_success


# Outages


def test_a_run_survives_an_outage_of_prefects_server(worker: Worker, prefect_server: PrefectServer, tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    run, cancelled = worker.trigger("wait_for", file=str(file)), worker.trigger("wait_for", file=str(other))
    until(lambda: Path(f"{file}.started").exists() and Path(f"{other}.started").exists(), 20, "both runs to start")
    task = worker.run_command("sleep 0.5; echo done")
    store = Store.open(worker.database)
    until(lambda: (line := store.line_of_flow_run(uuid.UUID(task))) and line.running, 20, "the command to run")
    prefect_server.kill()
    prefect_server.listener.close()  # nobody at the port, as after a crash
    file.touch()  # so it ends while there is nobody to tell
    time.sleep(OUTAGE)
    until(lambda: (line := store.line_of_flow_run(uuid.UUID(task))) and line.succeeded == 1, 10, "the host to end all the same")
    prefect_server.start_again()
    assert worker.end_of(run)["state_type"] == "COMPLETED"
    assert worker.end_of(task)["state_type"] == "COMPLETED"
    assert [execution.attempt for execution in store.executions(store.tasks(1)[0].id)] == [1]
    store.close()
    worker.cancel(cancelled)
    assert worker.end_of(cancelled)["state_type"] == "CANCELLED"
    assert worker.run("quick")["state_type"] == "COMPLETED"
