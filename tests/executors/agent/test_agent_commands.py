"""What a command gets from the agent, and what the hub gets of it."""

import base64
import json
import os
import pwd
import stat
import time
import uuid
from pathlib import Path

import pytest

from models.values import Attempt
from tests.executors.agent.agents import Agent
from tests.executors.contract import _TREES, command_lines
from tests.executors.processes import is_alive, marked
from tests.until import until


def _of(attempt: str) -> Attempt:
    return Attempt(id=uuid.UUID(attempt))


def test_exit_code_and_both_streams(shared: Agent) -> None:
    told = shared.hub.wait_for(shared.hub.command("echo out; echo err >&2; exit 3"), "done")
    assert (told.done or {})["exit_code"] == 3
    assert (told.stdout, told.stderr) == (b"out\n", b"err\n")
    assert told.words[0] == "held"


def test_nothing_is_left_when_the_hub_has_it_all(shared: Agent) -> None:
    attempt = shared.hub.command("echo out")
    shared.hub.wait_for(attempt, "done")
    until(lambda: not shared.spool(attempt).exists())
    until(lambda: not shared.keepers(attempt))
    last = [json.loads(line) for line in (shared.state / "journal").read_text().splitlines() if attempt in line]
    assert [entry["is"] for entry in last] == ["held", "started", "acked"]


def test_the_environment_is_the_documented_one(shared: Agent) -> None:
    attempt = shared.hub.command("env", env={"GREETING": "hi"})
    lines = dict(line.split("=", 1) for line in shared.hub.wait_for(attempt, "done").stdout.decode().splitlines())
    user = pwd.getpwuid(os.geteuid())
    expected = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell or "/bin/sh"}
    expected |= {"GREETING": "hi", "FLEETFLOW_ATTEMPT": attempt, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    expected |= {key: os.environ[key] for key in os.environ if key in {"LANG", "TZ", "TMPDIR"} or key.startswith("LC_")}
    assert {key: value for key, value in lines.items() if key not in {"PWD", "OLDPWD", "SHLVL", "_"}} == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cwd": "/no/where"}, "its working directory '/no/where' does not exist there, or may not be entered"),
        ({"interpreter": ["/no/sh"]}, "its interpreter /no/sh is not there, or is no program"),
        ({"interpreter": ["/etc"]}, "its interpreter /etc is not there, or is no program"),
        ({"env": {"A=B": ""}}, "environment variable 'A=B': no system takes such a name or value"),
        ({"env": {"A": "x" * 200_000}}, "an argument or a variable is longer than the 128 KiB that Linux lets a program have; use stdin"),
        ({"arguments": ["x" * 99_999] * 40, "interpreter": ["/bin/sh"]}, "the command could not be started: Argument list too long"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_cannot_start_is_refused(shared: Agent, tmp_path: Path, options: dict[str, object], reason: str) -> None:
    attempt = shared.hub.command(f"touch {tmp_path}/ran", **options)
    assert shared.hub.wait_for(attempt, "refused").reason == reason
    assert not (tmp_path / "ran").exists()
    until(lambda: not shared.spool(attempt).exists())


def test_nothing_starts_before_it_is_told_to_go(host: Agent, tmp_path: Path) -> None:
    host.hub.is_slow = True
    host.start()
    attempt = host.hub.command(f"touch {tmp_path}/ran")
    host.hub.wait_for(attempt, "held")
    time.sleep(0.2)  # in which it could have started, wrongly
    assert not (tmp_path / "ran").exists()
    host.hub.order(go=[attempt])
    assert (host.hub.wait_for(attempt, "done").done or {})["exit_code"] == 0
    assert (tmp_path / "ran").exists()


def test_a_held_one_that_is_canceled_never_starts(host: Agent, tmp_path: Path) -> None:
    host.hub.is_slow = True
    host.start()
    attempt = host.hub.command(f"touch {tmp_path}/ran")
    host.hub.wait_for(attempt, "held")
    host.hub.order(cancels=[attempt])
    assert host.hub.wait_for(attempt, "refused").reason == "canceled"
    until(lambda: not host.keepers(attempt))
    assert not (tmp_path / "ran").exists()


def test_nothing_of_a_command_is_in_an_argument_list_or_in_a_file(shared: Agent, tmp_path: Path) -> None:
    canary = uuid.uuid4().hex
    script = f"echo up; : {canary}; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    options = {"env": {"TOKEN": canary}, "stdin_b64": base64.b64encode(canary.encode()).decode()}
    attempt = shared.hub.command(script, **options)
    until(lambda: shared.hub[attempt].stdout)
    assert not [line for line in command_lines() if canary.encode() in line]
    assert not [path for path in shared.state.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    (tmp_path / "go").touch()
    shared.hub.wait_for(attempt, "done")


def test_its_files_are_its_own(shared: Agent) -> None:
    attempt = shared.hub.command("umask; echo x; until false; do sleep 0.05; done", umask="000")
    until(lambda: shared.hub[attempt].stdout)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (shared.state, *shared.state.rglob("*"))}
    assert not [(path, oct(mode)) for path, mode in modes.items() if mode & 0o077]
    shared.hub.order(cancels=[attempt])
    shared.hub.wait_for(attempt, "done")


@pytest.mark.parametrize("script", _TREES.values(), ids=_TREES)
def test_a_cancel_ends_the_whole_tree(shared: Agent, tmp_path: Path, script: str) -> None:
    pids = tmp_path / "pids"
    attempt = shared.hub.command(script, env={"PIDS": str(pids)})
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    shared.hub.order(cancels=[attempt])
    assert (shared.hub.wait_for(attempt, "done").done or {})["ended"] == "canceled"
    assert not [pid for pid in pids.read_text().split() if is_alive(int(pid))]
    assert not marked(_of(attempt))


def test_a_daemon_without_its_environment_is_ended_too(shared: Agent, tmp_path: Path) -> None:
    script = f"(setsid env -i sh -c 'echo $$ >{tmp_path}/pid; exec sleep 1000' &); sleep 1000"
    attempt = shared.hub.command(script)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    shared.hub.order(cancels=[attempt])
    shared.hub.wait_for(attempt, "done")
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_timeout_is_the_hosts_and_keeps_the_output(shared: Agent) -> None:
    attempt = shared.hub.command("echo a; trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done", timeout=0.3)
    told = shared.hub.wait_for(attempt, "done")
    assert told.stdout == b"a\nbye\n"
    assert ((told.done or {})["ended"], (told.done or {})["exit_code"]) == ("timed_out", 5)


def test_what_is_left_behind_on_purpose_lives_and_delays_nothing(shared: Agent) -> None:
    attempt = shared.hub.command("(sleep 1000; echo late) & echo $!")
    told = shared.hub.wait_for(attempt, "done")
    assert (told.done or {})["exit_code"] == 0
    assert is_alive(int(told.stdout))
    until(lambda: not shared.keepers(attempt))


def test_output_comes_while_it_runs(shared: Agent, tmp_path: Path) -> None:
    attempt = shared.hub.command(
        f"echo one; until [ -e {tmp_path}/1 ]; do sleep 0.05; done; echo two; until [ -e {tmp_path}/2 ]; do sleep 0.05; done"
    )
    until(lambda: shared.hub[attempt].stdout == b"one\n")
    (tmp_path / "1").touch()
    until(lambda: shared.hub[attempt].stdout == b"one\ntwo\n")
    assert not shared.hub[attempt].done
    (tmp_path / "2").touch()
    shared.hub.wait_for(attempt, "done")


def test_a_flood_keeps_its_head_and_its_tail_in_bounded_space(shared: Agent, tmp_path: Path) -> None:
    limit, count = 100_000, 200_000
    attempt = shared.hub.command(f"seq 1 {count}; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo end", output_limit=limit)
    printed = b"".join(b"%d\n" % number for number in range(1, count + 1)) + b"end\n"
    until(lambda: len(shared.hub[attempt].stdout) == limit)
    assert sum(path.stat().st_size for path in shared.spool(attempt).glob("stdout.*")) < 2 * limit + 2 * 65536
    (tmp_path / "go").touch()
    told = shared.hub.wait_for(attempt, "done")
    gap = len(printed) - 2 * limit
    assert told.gaps["stdout"] == [(limit, gap)]
    assert told.stdout == printed[:limit] + bytes(gap) + printed[-limit:]
    assert (told.done or {})["stdout_cut"] == gap


def test_a_flood_that_just_fits_loses_nothing(shared: Agent) -> None:
    attempt = shared.hub.command("head -c 200000 /dev/zero | tr '\\0' x", output_limit=100_000)
    told = shared.hub.wait_for(attempt, "done")
    assert (told.stdout, told.gaps["stdout"], (told.done or {})["stdout_cut"]) == (b"x" * 200_000, [], 0)


def test_a_command_may_end_its_own_group(shared: Agent) -> None:
    for script, code in (("kill 0; sleep 1000", 143), ("kill -9 0", 137)):
        told = shared.hub.wait_for(shared.hub.command(f"echo a; {script}"), "done")
        assert ((told.done or {})["exit_code"], told.stdout, told.stderr) == (code, b"a\n", b"")


def test_no_more_at_once_than_the_limit(host: Agent, tmp_path: Path) -> None:
    host.start("--commands", "2")
    attempts = [host.hub.command(f"echo up; until [ -e {tmp_path}/go ]; do sleep 0.05; done") for _ in range(5)]
    until(lambda: sum(bool(host.hub[attempt].stdout) for attempt in attempts) == 2)
    time.sleep(0.3)  # in which a third one could have started, wrongly
    assert sum(bool(host.hub[attempt].words) for attempt in attempts) == 2
    assert host.hub.syncs[-1]["free"] == 0
    (tmp_path / "go").touch()
    for attempt in attempts:
        assert (host.hub.wait_for(attempt, "done").done or {})["exit_code"] == 0
