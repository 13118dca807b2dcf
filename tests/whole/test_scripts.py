"""Script files, umask and sudo through the whole stack: command line, Prefect, worker, host."""

import os
from pathlib import Path

import pytest

from tests.programs import need
from tests.stacks import Stack


def test_a_script_file_travels_with_its_arguments(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "de ploy.py"  # not executable here, and no file there
    filler = "#é\n" + f"# {'x' * 97}\n" * 3000
    script.write_text(
        f"#!/usr/bin/env python3\n{filler}import os, sys\nprint(sys.argv[1:], sys.stdin.read(), oct(os.umask(0)))\nsys.exit(3)\n"
    )
    options = ("--stdin", "-", "--umask", "077", "--json")
    done = stack("run", "--script", str(script), "-t", "127.8.0.1,localhost", *options, "--", "a b", "", "--x", given=b"in")
    assert done.returncode == 1, done.stderr
    task = stack.newest()
    assert task.name == "de ploy.py on 127.8.0.1,localhost"
    assert (task.command.interpreter, task.command.arguments) == (("/usr/bin/env", "python3"), ("a b", "", "--x"))
    for execution in stack.executions(task.id).values():
        assert (execution.exit_code, stack.output(execution)) == (3, b"['a b', '', '--x'] in 0o77\n")
    shown = stack("task", "show", str(task.id)).stdout
    assert "bytes for /usr/bin/env python3 with" in shown
    assert "xxxx" not in shown
    assert stack.flow_run(task.flow_run_id)["deployment_id"] == stack.api("GET", "/deployments/name/run-script/fleet")["id"]
    again = stack("task", "retry", str(task.id), "--all")
    assert again.returncode == 1, again.stderr
    retried = stack.newest()
    assert (retried.retry_of, retried.name, retried.command) == (
        task.id,
        task.name.replace("127.8.0.1,localhost", retried.target),
        task.command,
    )


def test_the_interpreter_may_be_chosen_and_older_schedules_still_run_their_script(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "hello"
    script.write_text("import sys\nprint(sys.argv[1:])\n")
    done = stack("run", "--script", str(script), "-t", "localhost", "--interpreter", "/usr/bin/env python3", "a b")
    assert (done.returncode, done.stdout) == (0, "localhost: ['a b']\n"), done.stderr
    old = stack.create_run(target="localhost", script="#!/bin/sh\ntest $1 = x", script_name="old", arguments=["x"])
    assert stack.ended(old)["state"]["type"] == "COMPLETED"
    assert stack.flow_run(old)["name"] == "old on localhost"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be anybody without a password")
def test_become_names_its_password_and_stores_no_more(stack: Stack, secret: str) -> None:
    need("sudo")
    how = ("--become", "--become-user", "nobody", "--become-password", "secret:CANARY")
    done = stack("run", "id -un", "-t", "127.8.0.1,localhost", *how)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nobody") == 2
    task = stack.newest()
    assert (task.command.become, task.command.become_password) == ("nobody", "secret:CANARY")
    parameters = stack.flow_run(task.flow_run_id)["parameters"]
    assert (parameters["become_user"], parameters["become_password"]) == ("nobody", "secret:CANARY")
    shown = stack("task", "show", str(task.id)).stdout
    assert "nobody" in shown
    assert secret not in str(parameters) + shown + done.stdout + done.stderr + stack("config", "show").stdout
    for file in stack.home.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), f"in {file}"


def test_the_flow_refuses_what_the_command_line_refuses(stack: Stack) -> None:
    both = stack.create_run(target="localhost", command="true", script="true")
    plain = stack.create_run(target="localhost", command="true", become=True, become_password="hunter2")
    for run, word in ((both, "either a command or a script"), (plain, "secret:NAME")):
        state = stack.ended(run)["state"]
        assert (state["name"], word in state["message"], "hunter2" in state["message"]) == ("Refused", True, False)
