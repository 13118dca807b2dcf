"""Approval as people give it at the command line, and the question before a run over many hosts."""

import os
import pty
import subprocess

from models.states import TaskState
from tests.stacks import PROGRAM, Stack
from tests.until import until

ASKING = "echo approve-me"


def _waiting(stack: Stack, after: int) -> str:
    store = stack.store()
    try:
        number = until(lambda: next((task.id for task in store.tasks(1) if task.id > after), None), 20, "the task")
        until(lambda: store.open_approval(number), 20, "the question")
    finally:
        store.close()
    return str(number)


def _newest(stack: Stack) -> int:
    store = stack.store()
    try:
        return max((task.id for task in store.tasks(1)), default=0)
    finally:
        store.close()


def test_a_run_says_that_it_waits_and_goes_on_once_it_is_approved(stack: Stack) -> None:
    before = _newest(stack)
    process = stack.start("run", ASKING, "-t", "127.9.1.[1-2]")
    number = _waiting(stack, before)
    assert "approval  waits since" in stack("task", "show", number).stdout
    done = stack("task", "approve", number, "--why", "as agreed")
    assert done.returncode == 0, done.stderr
    assert f"task {number} approved by " in done.stderr
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert sorted(out.split(b"\n")) == [b"", b"127.9.1.1: approve-me", b"127.9.1.2: approve-me"]
    assert f"`fleetflow task approve {number}`" in err.decode()
    shown = stack("task", "show", number).stdout
    assert "approved by " in shown
    assert "as agreed" in shown
    again = stack("task", "approve", number)
    assert (again.returncode, again.stderr) == (2, f"fleetflow: task {number} waits for no approval: it is succeeded\n")


def test_a_refused_run_ends_canceled(stack: Stack) -> None:
    before = _newest(stack)
    process = stack.start("run", ASKING, "-t", "127.9.1.1")
    number = _waiting(stack, before)
    assert stack("task", "approve", number, "--refuse", "--why", "not now").returncode == 0
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "canceled" in err.decode()
    assert ": not now" in err.decode()
    assert stack.newest().state is TaskState.CANCELED


def _at_a_terminal(stack: Stack, typed: bytes, *arguments: str) -> tuple[int, str]:
    """Exit code and all that a terminal showed, with `typed` typed into it."""
    ours, theirs = pty.openpty()
    environ = stack.environ | {"FLEETFLOW_CONFIRM_HOSTS": "2", "TERM": "dumb"}
    process = subprocess.Popen(
        [str(PROGRAM), "run", "echo hello", *arguments], env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # how Linux says that the other end has been closed
        pass
    os.close(ours)
    return process.wait(30), shown.decode()


def test_many_hosts_are_run_on_only_once_their_number_is_typed(stack: Stack) -> None:
    before = _newest(stack)
    code, shown = _at_a_terminal(stack, b"y\n", "-t", "127.9.1.[1-3]")
    assert code == 2
    assert "Type 3 to go on" in shown
    assert "nothing was started" in shown
    assert _newest(stack) == before
    code, shown = _at_a_terminal(stack, b"3\n", "-t", "127.9.1.[1-3]")
    assert (code, shown.count(": hello")) == (0, 3)


def test_yes_and_few_hosts_are_not_asked_about(stack: Stack) -> None:
    for arguments in (("-t", "127.9.1.[1-3]", "--yes"), ("-t", "127.9.1.[1-2]")):
        code, shown = _at_a_terminal(stack, b"", *arguments)
        assert code == 0, shown
        assert "Type" not in shown
