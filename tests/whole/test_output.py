"""What hosts print: kept without loss, shown without harm."""

import base64
import contextlib
import json
import os
import pty
import re
import subprocess
import uuid
from pathlib import Path

from models.states import ExecutionState
from models.values import Stream
from tests.stacks import PROGRAM, Stack
from tests.until import until

MIB = 1024 * 1024


CASES = {
    "127.5.0.1": (r"caf\351 \377\376", b"caf\xe9 \xff\xfe"),
    "127.5.0.2": (r"a\000b\n", b"a\0b\n"),
    "127.5.0.3": (r"one\r\ntwo\r\n", b"one\r\ntwo\r\n"),
    "127.5.0.4": (r"\033[31mred\033]0;title\007", b"\x1b[31mred\x1b]0;title\x07"),
    "127.5.0.5": ("", b""),
}


def test_odd_output_is_stored_byte_for_byte(stack: Stack) -> None:
    script = "".join(f"*' {host} '*) printf '{text}';; " for host, (text, _) in CASES.items())
    rows = stack.rows("run", f'case " $SSH_CONNECTION" in {script} esac', "-t", ",".join(CASES))
    assert len(rows) == len(CASES)
    executions = stack.executions(rows[0]["task"])
    for row in rows:
        expected = CASES[row["host"]][1]
        assert row["stdout"] == expected.decode(errors="backslashreplace")
        assert base64.b64decode(row.get("stdout_b64", base64.b64encode(expected))) == expected
        assert stack.output(executions[row["host"]]) == expected


def test_a_line_of_5_mib_is_cut_in_its_middle_and_says_by_how_much(stack: Stack) -> None:
    (row,) = stack.rows("run", "head -c 5242880 /dev/zero | tr '\\0' x", "-t", "127.5.0.1")
    assert row["truncated"] == 4 * MIB
    assert f"[... {4 * MIB} bytes left out ...]" in row["stdout"]
    (execution,) = stack.executions(row["task"]).values()
    assert execution.cut[Stream.STDOUT] == 4 * MIB
    assert stack.output(execution) == b"x" * MIB


def test_nothing_a_host_prints_reaches_a_terminal_as_it_came(stack: Stack) -> None:
    script = "printf '\\033[31mred\\033[0m \\033]0;title\\007 \\302\\233 caf\\351\\r\\n'; printf '\\033[2J' >&2"
    for arguments in ((), ("-b",)):
        done = stack("run", script, "-t", "127.5.0.1", *arguments)
        shown = done.stdout + done.stderr
        assert "red" in shown
        assert "\\x1b[31m" in shown
        assert "\\xe9" in shown
        assert [character for character in shown if not character.isprintable() and character != "\n"] == []


def test_raw_gives_the_bytes_as_they_came_to_a_file(stack: Stack, tmp_path: Path) -> None:
    (row,) = stack.rows("run", "printf 'a\\000\\377\\n'", "-t", "127.5.0.1")
    file = tmp_path / "raw"
    with file.open("wb") as out:
        subprocess.run([str(PROGRAM), "task", "output", str(row["task"]), "--raw"], env=stack.environ, stdout=out, check=True, timeout=60)
    assert file.read_bytes() == b"a\0\xff\n"


def test_a_reader_that_has_had_enough_changes_nothing(stack: Stack) -> None:
    command = f"{PROGRAM} run 'seq 3' -t '127.5.1.[1-19]' | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=stack.environ, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert stack.newest().counts[ExecutionState.SUCCEEDED] == 19


def test_a_task_is_found_by_its_flow_run_too(stack: Stack) -> None:
    (accepted,) = stack.rows("run", "echo hi", "-t", "127.5.0.1", "--no-wait")
    until(lambda: stack("task", "show", accepted["flow_run"]).returncode == 0, 20)
    assert stack.newest().flow_run_id == uuid.UUID(accepted["flow_run"])
    assert "give its number" in stack("task", "show", "mine").stderr


def test_equal_outputs_fold_under_one_label(stack: Stack) -> None:
    done = stack("run", "echo same", "-t", "127.5.1.[1-19]", "-b")
    assert done.stdout.splitlines()[1:] == ["127.5.1.[1-19] (19)", "-" * 19, "same"]


def test_stdin_env_and_cwd_reach_the_command(stack: Stack) -> None:
    done = stack(
        "run", "cat; pwd; echo $A", "-t", "127.5.0.1,localhost", "--stdin", "-", "--cwd", "/usr", "--env", "A=b c", given=b"from here\n"
    )
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{host}: {line}" for host in ("127.5.0.1", "localhost") for line in ("from here", "/usr", "b c")
    )


def test_50_mib_from_each_of_20_hosts_stay_in_bounds(stack: Stack) -> None:
    worker = stack.status["worker"]["pid"]
    done = stack("run", "echo first; head -c 52428800 /dev/zero | tr '\\0' y; echo last", "-t", "127.5.2.[1-20]", "--json")
    assert done.returncode == 0, done.stderr
    peak = next(line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300 * 1024, peak
    for row in map(json.loads, done.stdout.splitlines()):
        assert row["truncated"] == 49 * MIB + len("first\nlast\n")
        assert row["stdout"].startswith("first\ny")
        assert row["stdout"].endswith("ylast\n")


def test_on_a_terminal_a_bar_shows_progress_and_steps_aside_for_results(stack: Stack) -> None:
    ours, theirs = pty.openpty()
    command = [str(PROGRAM), "run", "printf 'hi\\033[2J\\n'; sleep 5", "-t", "127.5.0.1"]
    process = subprocess.Popen(command, env=stack.environ | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO is how the end of a terminal looks
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    assert process.wait(timeout=30) == 0
    assert b"\x1b[2J" not in shown
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)
    assert b"0 of 1 done, 1 running" in plain
    assert b"127.5.0.1: hi\\x1b[2J" in re.split(rb"[\r\n]+", plain)
