"""The main job on a fleet: one sshd, a hundred loopback addresses, through Prefect, into SQLite."""

import json
import threading

from models.states import ExecutionState, TaskState
from tests.stacks import Done, Stack


def test_a_hundred_hosts_succeed_and_each_has_its_row(stack: Stack) -> None:
    done = stack("run", "echo hi", "-t", "127.1.0.[1-100]", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["host"] for row in rows} == {f"127.1.0.{number}" for number in range(1, 101)}
    assert {(row["state"], row["exit_code"], row["stdout"]) for row in rows} == {("succeeded", 0, "hi\n")}
    task = stack.newest()
    assert task.state is TaskState.SUCCEEDED
    executions = stack.executions(task.id)
    assert len(executions) == 100
    for execution in executions.values():
        assert execution.started_at is not None
        assert execution.finished_at is not None
        assert task.created_at <= execution.started_at <= execution.finished_at
        assert stack.output(execution) == b"hi\n"


def test_prefect_shows_the_run_as_its_users_expect(stack: Stack) -> None:
    stack("run", "hostname; exit $(( $(echo $SSH_CONNECTION | cut -d' ' -f3 | cut -d. -f4) % 40 == 0 ))", "-t", "127.1.0.[1-100]")
    task = stack.newest()
    run = stack.ended(task.flow_run_id)
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["message"] == "2 of 100 hosts failed: 127.1.0.[40,80]"
    assert run["name"].startswith("hostname; exit")
    shards = stack.api("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [str(task.flow_run_id)]}}})
    assert 1 < len(shards) <= 32
    assert any("(4 hosts)" in shard["name"] for shard in shards)
    lines = _log(stack, str(task.flow_run_id))
    assert any("127.1.0.40 failed: exit code 1" in line for line in lines)
    assert not any("127.1.0.41" in line for line in lines if "100 hosts" not in line), "hosts that succeed have no line of their own"
    artifacts = stack.api("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [str(task.flow_run_id)]}}})
    table, page = (next(artifact["data"] for artifact in artifacts if artifact["type"] == kind) for kind in ("table", "markdown"))
    results = json.loads(table)
    assert [row["state"] for row in results] == ["failed"] * 2 + ["succeeded"] * 98
    assert "2 of 100 hosts failed: 127.1.0.[40,80]" in page


def _log(stack: Stack, flow_run_id: str) -> list[str]:
    from tests.until import until

    def lines() -> list[str]:
        found = stack.api("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200})
        messages = [entry["message"] for entry in found]
        return messages if any("hosts failed" in message for message in messages) else []

    return until(lines, 20, "the log in Prefect")


def test_five_tasks_at_once_against_the_same_hosts_end_as_they_should(stack: Stack) -> None:
    """Each has a success, a failure and a timeout; nothing is lost, and no database is locked."""
    script = 'case "$SSH_CONNECTION" in *127.2.0.1*) echo fine;; *127.2.0.2*) exit 3;; *) echo part; sleep 60;; esac'
    done: list[Done] = []
    threads = [
        threading.Thread(target=lambda: done.append(stack("run", script, "-t", "127.2.0.[1-3]", "--timeout", "2", "--json")))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [1] * 5, [one.stderr for one in done]
    for one in done:
        assert "locked" not in one.stderr
        rows = {row["host"]: row for row in map(json.loads, one.stdout.splitlines())}
        assert (rows["127.2.0.1"]["state"], rows["127.2.0.1"]["stdout"]) == ("succeeded", "fine\n")
        assert (rows["127.2.0.2"]["state"], rows["127.2.0.2"]["exit_code"]) == ("failed", 3)
        assert (rows["127.2.0.3"]["state"], rows["127.2.0.3"]["stdout"]) == ("timed_out", "part\n")
    store = stack.store()
    for line in store.tasks(5):
        assert store.recount(line.id) == store.task(line.id).counts
        assert line.counts[ExecutionState.TIMED_OUT] == 1
    store.close()


def test_connections_stay_open_from_run_to_run(stack: Stack, sshd: object) -> None:
    from tests.servers.sshd import Sshd

    assert isinstance(sshd, Sshd)
    stack("run", "true", "-t", "127.3.0.[1-5]")
    before = sshd.log.count("Accepted publickey")
    stack("run", "true", "-t", "127.3.0.[1-5]")
    assert sshd.log.count("Accepted publickey") == before
