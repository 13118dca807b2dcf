"""Whatever ends a run, its commands end with it, and the store and Prefect say so."""

import os
import signal

import pytest

from models.states import ExecutionState, TaskState
from tests.stacks import Stack, marked, new_word
from tests.until import until

# Children that hide in every way: a grandchild, one under nohup, one that ignores TERM, one with a session of its own.
TREE = """
trap '' TERM
(sleep 300 & sleep 300) &
nohup sleep 300 >/dev/null 2>&1 &
setsid sleep 300 &
setsid sh -c "trap '' TERM; while :; do sleep 1; done" &
echo ready
wait
sleep 300
"""
FLEET = "127.4.0.[1-3]"


def _gone(word: str, seconds: float = 10) -> None:
    until(lambda: not marked(word), seconds, f"the end of {word}")


def _running(stack: Stack, word: str, hosts: int = 3) -> None:
    until(lambda: len(marked(word)) >= 5 * hosts, 30, "the commands to run")


def test_a_timeout_leaves_no_process(stack: Stack) -> None:
    word = new_word()
    done = stack("run", TREE, "-t", f"{FLEET},localhost", "--timeout", "3", "--env", f"WORD={word}")
    assert done.returncode == 1
    assert marked(word) == []
    assert {execution.state for execution in stack.executions(stack.newest().id).values()} == {ExecutionState.TIMED_OUT}
    assert "127.4.0.1: ready" in done.stdout, "what it printed until then is kept"


def test_an_interrupt_cancels_and_waits(stack: Stack) -> None:
    word = new_word()
    process = stack.start("run", TREE, "-t", f"{FLEET},localhost", "--env", f"WORD={word}")
    _running(stack, word, 4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert marked(word) == []
    task = stack.newest()
    assert task.state is TaskState.CANCELED
    assert {execution.state for execution in stack.executions(task.id).values()} == {ExecutionState.CANCELED}
    assert b"127.4.0.1: ready" in out
    assert stack.ended(task.flow_run_id)["state"]["type"] == "CANCELLED"


def test_a_cancel_by_prefects_api_ends_the_commands_and_other_runs_go_on(stack: Stack) -> None:
    word, other = new_word(), new_word()
    stays = stack.create_run(command="sleep 8; echo stayed", target="127.4.0.9", env=[f"WORD={other}"])
    goes = stack.create_run(command=TREE, target=FLEET, env=[f"WORD={word}"])
    _running(stack, word)
    stack.api("POST", f"/flow_runs/{goes}/set_state", {"state": {"type": "CANCELLING"}})
    assert stack.ended(goes)["state"]["type"] == "CANCELLED"
    _gone(word)
    assert stack.ended(stays)["state"]["type"] == "COMPLETED"


def test_task_cancel_ends_a_task_and_says_so(stack: Stack) -> None:
    word = new_word()
    process = stack.start("run", "sleep 300", "-t", "127.4.0.1", "--env", f"WORD={word}")
    until(lambda: marked(word), 30)
    number = str(stack.newest().id)
    done = stack("task", "cancel", number)
    assert (done.returncode, done.stderr) == (0, f"task {number} canceled\n")
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert marked(word) == []
    assert stack("task", "cancel", number).stderr == f"task {number} has ended already: canceled\n"


def test_after_kill_9_of_the_worker_nothing_runs_on_and_nothing_shows_running(stack: Stack) -> None:
    word = new_word()
    run = stack.create_run(command=TREE, target=f"{FLEET},localhost", forks=3, env=[f"WORD={word}"], on_disconnect="end")
    _running(stack, word)
    worker = stack.status["worker"]["pid"]
    os.kill(worker, signal.SIGKILL)
    _gone(word)
    ended = stack.ended(run, 90)
    assert ended["state"]["type"] == "CRASHED", ended["state"]
    store = stack.store()
    task = store.task_of_flow_run(run)
    assert task is not None
    assert (task.state, task.reason) == (TaskState.FAILED, "worker stopped")
    assert task.counts[ExecutionState.LOST] == 3
    assert task.counts[ExecutionState.CANCELED] == 1
    assert store.recount(task.id) == task.counts
    store.close()
    assert stack("run", "echo again", "-t", "127.4.0.1").stdout == "127.4.0.1: again\n", "the new worker takes new runs"


def test_a_terminated_command_line_cancels_too(stack: Stack) -> None:
    word = new_word()
    process = stack.start("run", "sleep 300", "-t", "127.4.0.1", "--env", f"WORD={word}")
    until(lambda: marked(word), 30)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert marked(word) == []
    assert stack.newest().state is TaskState.CANCELED


def test_a_retried_flow_run_goes_on_with_its_task_and_runs_only_what_never_started(stack: Stack) -> None:
    word = new_word()
    run = stack.create_run(command="echo $SSH_CONNECTION; sleep 300", target="127.4.1.[1-4]", forks=2, env=[f"WORD={word}"])
    until(lambda: len(marked(word)) >= 4, 30)
    stack.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert stack.ended(run)["state"]["type"] == "CANCELLED"
    store = stack.store()
    before = store.task_of_flow_run(run)
    assert before is not None
    started = {execution.host for execution in store.executions(before.id) if execution.started_at is not None}
    assert len(started) == 2
    stack.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True})
    until(lambda: len(marked(word)) >= 4, 30, "the other two")
    stack.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: stack.flow_run(run)["state"]["type"] == "CANCELLED", 30)
    assert store.task_of_flow_run(run).id == before.id  # type: ignore[union-attr]  # it was there before
    executions = {execution.host: execution for execution in store.executions(before.id)}
    assert {host for host, execution in executions.items() if execution.attempt == 1} == started
    assert all(execution.started_at is not None for execution in executions.values())
    store.close()


@pytest.mark.slow
def test_a_run_does_not_wait_for_a_stack_that_has_ended(stack: Stack) -> None:
    word = new_word()
    process = stack.start("run", "sleep 300", "-t", "127.4.0.1,localhost", "--env", f"WORD={word}", "--on-disconnect", "end")
    until(lambda: len(marked(word)) >= 2, 30)
    status = stack.status
    os.kill(status["processes"]["supervisor"], signal.SIGKILL)
    os.kill(status["worker"]["pid"], signal.SIGKILL)  # left alone, it would cancel the task and say so
    _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    number = stack.newest().id
    assert f"the local stack: has ended before task {number}" in err.decode()
    _gone(word)
    assert stack("up", "-d").returncode == 0
    ended = stack.newest()
    assert (ended.id, ended.state, ended.counts[ExecutionState.LOST]) == (number, TaskState.FAILED, 2)
