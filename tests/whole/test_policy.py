"""Waves, a limit, retries and a retried task, through the command line, Prefect and SSH."""

from models.states import ExecutionState, TaskState
from tests.stacks import Stack

S = ExecutionState
# Host 9 always fails, and host 10 has its turn while it waits for the second try; host 2 fails at its first try.
SCRIPT = """
case "$SSH_CONNECTION" in *127.8.0.9*) echo broken; exit 7;; esac
case "$SSH_CONNECTION" in *127.8.0.2*) mkdir "$MARK" 2>/dev/null && { echo first; exit 5; };; esac
echo "fine $A"
"""

AGAIN = 'all of them run again with --all, or kinds ["all"]'


def test_a_rollout_stops_at_its_limit_and_what_is_left_is_retried(stack: Stack) -> None:
    mark = stack.home.parent / "tried-once"
    done = stack(
        "run", SCRIPT, "-t", "127.8.0.[1-12]", "--waves", "1,25%,80%", "--max-failures", "0", "--retries", "1", "--retry-delay", "0.2",
        "--env", f"MARK={mark}", "--env", "A=b c", "--forks", "1", "--user", "root",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    reason = "1 of 12 hosts failed, and none was allowed to"
    assert reason in done.stderr
    task = stack.newest()
    executions = stack.executions(task.id)
    assert (task.state, task.reason) == (TaskState.FAILED, reason)
    assert [executions[f"127.8.0.{number}"].wave for number in range(1, 13)] == [1, 2, 2] + [3] * 7 + [4] * 2
    assert [executions[f"127.8.0.{number}"].state for number in range(1, 13)] == [S.SUCCEEDED] * 8 + [S.FAILED, S.SUCCEEDED] + [
        S.CANCELED
    ] * 2
    assert executions["127.8.0.12"].error == f"not started: {reason}"
    assert reason in stack.ended(task.flow_run_id)["state"]["message"]

    shown = stack("task", "show", str(task.id), "--attempts").stdout
    assert "waves 1,25%,80%, max failures 0, retries 1 after 0.2 s, forks 1" in shown
    tries = [line.split()[:4] for line in shown.splitlines() if "127.8.0.2 " in line]
    assert tries == [["try", "1", "failed", "127.8.0.2"], ["try", "2", "succeeded", "127.8.0.2"]]
    assert stack("task", "output", str(task.id), "-H", "127.8.0.2", "--attempt", "1").stdout == "127.8.0.2: first\n"

    none = stack("task", "retry", str(task.id), "--lost")
    assert (none.returncode, none.stderr) == (3, f"fleetflow: nothing to retry: no host of task {task.id} is lost; {AGAIN}\n")
    again = stack("task", "retry", str(task.id), "--not-started")
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[0] == f"retrying 2 of 12 hosts of task {task.id}"
    assert sorted(again.stdout.splitlines()) == [f"127.8.0.{number}: fine b c" for number in (11, 12)]
    second = stack.newest()
    assert (second.retry_of, second.policy, second.command) == (task.id, task.policy, task.command)
    assert second.options["user"] == "root"
    assert f"retry of  task {task.id}" in stack("task", "show", str(second.id)).stdout
