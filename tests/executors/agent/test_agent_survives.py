"""What is killed, torn, cut off or full: nothing runs twice, nothing is lost, and what nobody can know is said to be so."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from models.values import Attempt
from tests.executors.agent.agents import Agent, enrolled
from tests.executors.agent.hub import Hub
from tests.executors.processes import children, is_alive, marked
from tests.programs import need, need_root
from tests.until import until


def _slow(folder: Path) -> str:
    """Prints, waits for a file, prints again; and leaves a trace of each time that it runs."""
    return f"echo ran >>{folder}/ran; echo one; until [ -e {folder}/go ]; do sleep 0.05; done; echo two; exit 7"


def _runs(folder: Path) -> int:
    path = folder / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("ends", ["while it is away", "later"])
def test_a_command_outlives_its_agent(host: Agent, tmp_path: Path, number: int, ends: str) -> None:
    attempt = host.start().hub.command(_slow(tmp_path))
    until(lambda: host.hub[attempt].stdout)
    host.stop(number)
    assert host.keepers(attempt)
    if ends == "later":
        host.start()
        until(lambda: len(host.hub.known) == 2)
        assert host.hub.known[1] == [{"id": attempt, "state": "running"}]
        (tmp_path / "go").touch()
    else:
        (tmp_path / "go").touch()
        until(lambda: not host.keepers(attempt))
        host.start()
    told = host.hub.wait_for(attempt, "done")
    assert (told.stdout, (told.done or {})["exit_code"], _runs(tmp_path)) == (b"one\ntwo\n", 7, 1)


@pytest.mark.parametrize("which", [0, 1], ids=["keeper", "runner"])
def test_kill_9_of_what_keeps_it_ends_it_and_is_said(host: Agent, tmp_path: Path, which: int) -> None:
    attempt = host.start().hub.command(f"setsid sleep 1000 & {_slow(tmp_path)}", grace=0.1)
    until(lambda: host.hub[attempt].stdout)
    os.kill(host.keepers(attempt)[which], signal.SIGKILL)
    told = host.hub.wait_for(attempt, "done")
    assert ((told.done or {})["ended"], (told.done or {})["exit_code"], told.stdout) == ("killed", None, b"one\n")
    until(lambda: not marked(Attempt(id=uuid.UUID(attempt))))


def test_a_held_one_survives_its_agent(host: Agent, tmp_path: Path) -> None:
    host.hub.is_slow = True
    attempt = host.start().hub.command(_slow(tmp_path))
    host.hub.wait_for(attempt, "held")
    host.kill()
    (tmp_path / "go").touch()
    host.start()
    until(lambda: len(host.hub.known) == 2)
    assert host.hub.known[1] == [{"id": attempt, "state": "held"}]
    host.hub.order(go=[attempt])
    assert (host.hub.wait_for(attempt, "done").done or {})["exit_code"] == 7
    assert _runs(tmp_path) == 1


def test_a_held_one_goes_with_the_agents_folder(host: Agent, tmp_path: Path) -> None:
    host.hub.is_slow = True
    attempt = host.start().hub.command(_slow(tmp_path))
    host.hub.wait_for(attempt, "held")
    host.kill()
    assert host.keepers(attempt)
    shutil.rmtree(host.state)
    until(lambda: not host.keepers(attempt), 20)
    assert _runs(tmp_path) == 0


def test_a_held_one_whose_keeper_is_killed_has_never_started(host: Agent, tmp_path: Path) -> None:
    host.hub.is_slow = True
    attempt = host.start().hub.command(_slow(tmp_path))
    host.hub.wait_for(attempt, "held")
    host.kill()
    for pid in host.keepers(attempt):
        os.kill(pid, signal.SIGKILL)
    host.start()
    assert "before it could start" in host.hub.wait_for(attempt, "refused").reason
    assert _runs(tmp_path) == 0


def _traced(strace: int) -> list[int]:
    """What strace has started; it begins with children of its own, by which it learns what the kernel can."""
    found = []
    for pid in children(strace):
        with suppress(OSError):  # it has ended
            if not Path(f"/proc/{pid}/exe").samefile(f"/proc/{strace}/exe"):
                found.append(pid)
    return found


def _crash(host: Agent, tmp_path: Path, inject: str) -> None:
    """Have the agent killed at this system call; then a new one tells the truth about the command."""
    attempt = str(uuid.uuid4())
    folder = tmp_path / attempt
    folder.mkdir()
    (folder / "go").touch()
    host.start(before=("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"))
    host.hub.command(_slow(folder), attempt)
    service = until(lambda: _traced(host.pid) or (host.process and host.process.poll() is not None and [0]), what="the service")[0]
    until(lambda: host.hub[attempt].done or host.hub[attempt].reason or not is_alive(service), 20)
    if is_alive(service):  # by its number: while it becomes another program, it has no command line
        os.kill(service, signal.SIGKILL)
    host.stop()  # strace, which lets go of the keepers
    seen = len(host.hub.known)
    host.start()
    until(lambda: len(host.hub.known) > seen)
    host.hub.order(ask=[attempt])
    told = host.hub.wait_for(attempt, "done", "refused", "unknown")
    if told.done and told.done["ended"] is None:
        assert (told.done["exit_code"], told.stdout, _runs(folder)) == (7, b"one\ntwo\n", 1)
    elif told.done:
        assert (told.done["ended"], _runs(folder) <= 1) == ("killed", True)
    else:
        assert _runs(folder) == 0
    host.stop()


# The service writes its journal anew at its start (two), then "held" and "started"; the keeper makes its files safe at the end.
@pytest.mark.slow
@pytest.mark.parametrize("when", range(1, 9))
@pytest.mark.parametrize("call", ["fsync", "linkat,link", "mkdir", "clone,clone3,fork,vfork", "rename"])
def test_killed_at_any_step_nothing_runs_twice(host: Agent, tmp_path: Path, call: str, when: int) -> None:
    need("strace")
    _crash(host, tmp_path, f"{call}:signal=KILL:when={when}")


def test_killed_at_random_moments_nothing_runs_twice_and_nothing_is_lost(host: Agent, tmp_path: Path) -> None:
    chosen = random.Random(5)  # noqa: S311  # the same moments each time
    attempts = []
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "go").touch()
        host.start()
        until(lambda number=number: len(host.hub.known) > number)
        attempts.append(host.hub.command(_slow(folder)))
        time.sleep(chosen.uniform(0.0, 0.25))  # the moment is the point
        host.kill()
    host.start()
    until(lambda: len(host.hub.known) == 9)
    host.hub.order(ask=attempts)
    for number, attempt in enumerate(attempts):
        told = host.hub.wait_for(attempt, "done", "refused", "unknown")
        ran = _runs(tmp_path / str(number))
        if told.done:
            assert (told.done["ended"], told.done["exit_code"], told.stdout, ran) == (None, 7, b"one\ntwo\n", 1)
        else:
            assert ran == 0


def test_a_command_that_comes_again_does_not_run_again(host: Agent, tmp_path: Path) -> None:
    attempt = host.start().hub.command(_slow(tmp_path))
    until(lambda: host.hub[attempt].stdout)
    host.hub.command(_slow(tmp_path), attempt)
    (tmp_path / "go").touch()
    host.hub.wait_for(attempt, "done")
    until(lambda: not host.spool(attempt).exists())
    host.hub[attempt].words.clear()
    host.hub.command(_slow(tmp_path), attempt)
    host.hub.wait_for(attempt, "done", "unknown")
    host.stop()
    host.start()
    host.hub[attempt].words.clear()
    host.hub.command(_slow(tmp_path), attempt)
    host.hub.wait_for(attempt, "done", "unknown")
    assert _runs(tmp_path) == 1


@pytest.mark.parametrize("cut", [2, 30, 70])
def test_a_torn_journal_means_may_have_started(host: Agent, tmp_path: Path, cut: int) -> None:
    host.start()
    until(lambda: host.hub.known)
    host.stop()
    attempt = str(uuid.uuid4())
    line = json.dumps({"id": attempt, "is": "started", "boot": "b", "at": 0.0, "limit": 1})
    with (host.state / "journal").open("a") as journal:
        journal.write(line[:-cut])
    host.start()
    host.hub.command(_slow(tmp_path), attempt)
    told = host.hub.wait_for(attempt, "done", "refused")
    assert (told.done or {})["ended"] == "gone"
    assert _runs(tmp_path) == 0
    other = host.hub.command("true")
    assert (host.hub.wait_for(other, "done").done or {})["exit_code"] == 0
    host.stop()
    host.start()
    host.hub[attempt].words.clear()
    host.hub.command(_slow(tmp_path), attempt)
    host.hub.wait_for(attempt, "done")
    assert _runs(tmp_path) == 0


def test_after_a_reboot_what_ran_is_said_to_have_been_rebooted(host: Agent, tmp_path: Path) -> None:
    attempt = host.start().hub.command(_slow(tmp_path))
    until(lambda: host.hub[attempt].stdout)
    host.kill()
    for pid in [*host.keepers(attempt), *marked(Attempt(id=uuid.UUID(attempt)))]:
        with suppress(ProcessLookupError):  # the runner ends with its keeper
            os.kill(pid, signal.SIGKILL)
    journal = host.state / "journal"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    journal.write_text(journal.read_text().replace(boot, str(uuid.uuid4())))
    host.start()
    told = host.hub.wait_for(attempt, "done")
    assert ((told.done or {})["ended"], told.stdout) == ("rebooted", b"one\n")


def test_a_result_is_kept_until_it_is_acknowledged(host: Agent) -> None:
    host.hub.keeps = True
    attempt = host.start().hub.command("echo out")
    host.hub.wait_for(attempt, "done")
    host.kill()
    host.start()
    until(lambda: len(host.hub.known) == 2)
    assert host.hub.known[1] == [{"id": attempt, "state": "done"}]
    host.hub.order(acks=[attempt])
    until(lambda: not host.spool(attempt).exists())
    assert "acked" in (host.state / "journal").read_text()


def test_answers_that_are_lost_or_say_nothing_change_nothing(host: Agent, tmp_path: Path) -> None:
    host.hub.drops, host.hub.forgets_noted = 3, 2
    attempt = host.start().hub.command(f"seq 1 20000; {_slow(tmp_path)}")
    (tmp_path / "go").touch()
    told = host.hub.wait_for(attempt, "done")
    assert told.stdout == b"".join(b"%d\n" % number for number in range(1, 20001)) + b"one\ntwo\n"
    assert _runs(tmp_path) == 1
    until(lambda: not host.spool(attempt).exists())


def test_results_wait_while_the_hub_is_away(host: Agent, tmp_path: Path) -> None:
    hub = host.start().hub
    attempt = hub.command(_slow(tmp_path))
    until(lambda: hub[attempt].stdout)
    with hub.changed:
        hub.is_away = True
        hub.changed.notify_all()
    (tmp_path / "go").touch()
    until(lambda: not host.keepers(attempt))
    until(lambda: "the hub cannot be reached" in host.words)
    assert not hub[attempt].done
    hub.is_away = False
    assert (hub.wait_for(attempt, "done").done or {})["exit_code"] == 7
    assert hub[attempt].stdout == b"one\ntwo\n"


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[None]:
    need_root("only root may mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (65536, 4096, 512, 1):
            try:
                while ballast.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def test_a_full_disk_refuses_commands_and_says_so(hub: Hub, url: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with _mounted(tmp_path / "state", "64k"), enrolled(tmp_path, hub, url) as host:
        host.start()
        attempt = hub.command(_slow(tmp_path))
        assert hub.wait_for(attempt, "refused").reason == f"no space: the disk of {host.state} is full"
        _fill(host.state)
        beats = len(hub.syncs)
        attempt = hub.command(_slow(tmp_path))
        hub.wait_for(attempt, "refused")
        until(lambda: len(hub.syncs) > beats + 1)
        assert hub.syncs[-1]["v"] == 1
        host.kill()
        host.start()
        attempt = hub.command(_slow(tmp_path))
        hub.wait_for(attempt, "refused")
        assert _runs(tmp_path) == 0


def test_a_disk_that_fills_up_under_a_command_costs_output_and_not_its_end(hub: Hub, url: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with _mounted(tmp_path / "state", "4m"), enrolled(tmp_path, hub, url) as host:
        host.start()
        attempt = hub.command(_slow(tmp_path).replace("exit", "seq 1 50000; exit"))
        until(lambda: hub[attempt].stdout)
        _fill(host.state)
        (tmp_path / "go").touch()
        told = hub.wait_for(attempt, "done")
        assert ((told.done or {})["exit_code"], (told.done or {})["stdout"]) == (7, 8 + 288894)
        assert (told.done or {})["stdout_cut"] == sum(size for _, size in told.gaps["stdout"]) > 0
        (host.state / "ballast").unlink()
        until(lambda: not host.spool(attempt).exists(), 30)
        assert (hub.wait_for(hub.command("true"), "done").done or {})["exit_code"] == 0
