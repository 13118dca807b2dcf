"""Durable runs through a whole stack: the worker dies, and nothing is lost, run twice or left behind."""

import os
import signal
from pathlib import Path

from models.states import ExecutionState, TaskState
from tests.stacks import Stack, marked, new_word
from tests.until import until

FLEET = "127.6.0.[1-5]"


def test_a_killed_worker_s_commands_are_followed_to_their_ends_by_the_next_one(stack: Stack, tmp_path: Path) -> None:
    word, witness, gate = new_word(), tmp_path / "witness", tmp_path / "gate"
    script = f"echo $FLEETFLOW_ATTEMPT >>{witness}; echo one; until [ -e {gate} ]; do sleep 0.1; done; echo two; exit 3"
    run = stack.create_run(command=script, target=f"{FLEET},localhost", forks=5, env=[f"WORD={word}"], on_disconnect="linger")
    until(lambda: witness.exists() and len(witness.read_text().splitlines()) == 5, 30, "the commands to run")
    old = stack.status["worker"]["pid"]
    os.kill(old, signal.SIGKILL)
    until(lambda: (worker := stack.status["worker"]) and worker["pid"] != old, 30, "the next worker")
    assert len(marked(word)) >= 5, "they go on without a worker"
    gate.touch()
    assert stack.ended(run, 60)["state"]["type"] == "FAILED"
    store = stack.store()
    task = store.task_of_flow_run(run)
    assert task is not None
    assert task.counts == store.recount(task.id)
    assert task.counts[ExecutionState.FAILED] == 6, task.counts
    rows = [store.row(execution) for execution in store.executions(task.id)]
    store.close()
    assert {row["stdout"] for row in rows} == {"one\ntwo\n"}
    attempts = witness.read_text().splitlines()
    assert len(attempts) == len(set(attempts)) == 6, "each was started once, the one that waited for a fork by the next worker"
    until(lambda: not marked(word), 30, "the end of all processes")


def test_a_cancel_while_no_worker_lives_ends_the_commands(stack: Stack, tmp_path: Path) -> None:
    word = new_word()
    run = stack.create_run(command="echo up; sleep 300", target=FLEET, env=[f"WORD={word}"], on_disconnect="linger")
    until(lambda: len(marked(word)) >= 10, 30, "the commands to run")
    os.kill(stack.status["worker"]["pid"], signal.SIGKILL)
    stack("task", "cancel", str(run), "--no-wait")
    assert stack.ended(run, 60)["state"]["type"] == "CANCELLED"
    until(lambda: not marked(word), 30, "the end of all processes")
    task = stack.newest()
    assert (task.state, task.counts[ExecutionState.CANCELED]) == (TaskState.CANCELED, 5)
