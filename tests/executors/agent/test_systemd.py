"""The agent as a service of a real systemd: each command has a scope of its own, whatever becomes of the service."""

import hashlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.agent.agents import PROGRAM
from tests.executors.agent.hub import AGENT, CREDENTIAL, Hub, serve
from tests.programs import need
from tests.servers.machine import Machine, run_machine
from tests.until import until

_SERVICE = "fleetflow-agent.service"
_SLICE = "system-fleetflow.slice"
_STATE = "/var/lib/fleetflow-agent"


class Served:
    """A machine with an agent that was installed there, and the hub that it calls."""

    def __init__(self, machine: Machine, hub: Hub, url: str) -> None:
        self.machine = machine
        self.hub = hub
        self.url = url

    def script(self, name: str, *words: str) -> list[str]:
        """Run one of the scripts that `fleetflow agent` sends to hosts; the lines that it prints."""
        text = "".join(PROGRAM.with_name(part).read_text() for part in ("common.sh", name))
        line = [*self.machine.enter, "sh", "-c", text, "sh", *words]
        done = subprocess.run(line, input=PROGRAM.read_bytes(), capture_output=True, timeout=60, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().splitlines()

    def install(self) -> None:
        how, _ = self.script("install.sh", hashlib.sha256(PROGRAM.read_bytes()).hexdigest(), self.url, "", "auto", "")
        assert how == "systemd looks after it"

    def begin(self, folder: Path, script: str = "") -> str:
        """Start a command that ends when the file `go` is there; its attempt, once it runs."""
        attempt = self.hub.command(
            f"echo one; {script} touch {folder}/began; until [ -e {folder}/go ]; do sleep 0.05; done; echo two; exit 7"
        )
        until((folder / "began").exists, 30)
        return attempt

    def finish(self, attempt: str, folder: Path) -> None:
        (folder / "go").touch()
        told = self.hub.wait_for(attempt, "done")
        assert (told.stdout, (told.done or {})["exit_code"]) == (b"one\ntwo\n", 7)

    @property
    def pid(self) -> int:
        return int(self.machine.show(_SERVICE, "MainPID"))

    def group(self, unit: str) -> dict[int, str]:
        """The processes in a unit, as they are numbered there, with their command lines."""
        path = self.machine.show(unit, "ControlGroup")
        loop = f"for pid in $(cat /sys/fs/cgroup{path}/cgroup.procs); do echo $pid $(tr '\\0' ' ' </proc/$pid/cmdline); done"
        return {int(pid): line for pid, _, line in (line.partition(" ") for line in self.machine("sh", "-c", loop).splitlines())}

    def scopes(self) -> list[str]:
        return [
            line.split()[0] for line in self.machine("systemctl", "list-units", "--plain", "--no-legend", "fleetflow-*.scope").splitlines()
        ]


def scope(attempt: str) -> str:
    return f"fleetflow-{attempt}.scope"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All of these tests share one; the last one removes the agent."""
    hub = Hub()
    with run_machine(tmp_path_factory.mktemp("machine")) as machine, serve(hub) as url:
        identity = {"hub": url, "fingerprint": "", "name": "web1", "generation": 1, "agent": AGENT, "credential": CREDENTIAL}
        machine("sh", "-c", f"mkdir -m 700 {_STATE} && echo '{json.dumps(identity)}' >{_STATE}/identity")
        host = Served(machine, hub, url)
        host.install()
        until(lambda: hub.known, 30)
        yield host


def test_a_command_has_a_scope_and_its_service_may_be_stopped_killed_and_upgraded(served: Served, tmp_path: Path) -> None:
    machine, attempt = served.machine, served.begin(tmp_path)
    assert machine.show(_SERVICE, "ActiveState") == machine.show(scope(attempt), "ActiveState") == "active"
    assert machine.show(scope(attempt), "ControlGroup") == f"/system.slice/{_SLICE}/{scope(attempt)}"
    assert len(served.group(_SERVICE)) == 1, "nothing of a command is in the service"
    before = served.pid
    machine("systemctl", "restart", _SERVICE)
    machine("systemctl", "kill", "--kill-whom=all", "--signal=KILL", _SERVICE)
    machine("systemctl", "restart", _SERVICE)  # at once; by itself it waits 5 s
    served.install()
    until(lambda: len(served.hub.known) >= 2 and served.hub.known[-1], 30)
    assert served.hub.known[-1] == [{"id": attempt, "state": "running"}]
    assert served.pid != before
    served.finish(attempt, tmp_path)
    until(lambda: not served.scopes(), 10, "the end of its scope")


def test_limits_and_accounting_are_those_of_one_command(served: Served, tmp_path: Path) -> None:
    limits = "/etc/systemd/system/fleetflow-.scope.d"
    served.machine(
        "sh", "-c", f"mkdir {limits}; printf '[Scope]\nMemoryMax=64M\nTasksMax=50\n' >{limits}/limits.conf; systemctl daemon-reload"
    )
    attempt = served.begin(tmp_path)
    show = {name: served.machine.show(scope(attempt), name) for name in ("MemoryMax", "TasksMax", "CPUUsageNSec")}
    served.machine("sh", "-c", f"rm -r {limits}; systemctl daemon-reload")
    served.finish(attempt, tmp_path)
    assert (show["MemoryMax"], show["TasksMax"]) == (str(64 * 1024 * 1024), "50")
    assert int(show["CPUUsageNSec"]) > 0


@pytest.mark.parametrize("user", [None, "nobody"])
def test_who_stops_a_scope_ends_its_command_and_that_is_told(served: Served, user: str | None) -> None:
    need("sudo")
    attempt = served.hub.command("echo one; sleep 1000", become=user)
    until(lambda: served.hub[attempt].stdout, 30)
    served.machine("systemctl", "stop", scope(attempt))
    told = served.hub.wait_for(attempt, "done")
    assert (told.stdout, (told.done or {})["exit_code"], (told.done or {})["ended"]) == (b"one\n", 143, None)


def test_a_held_command_whose_scope_is_stopped_never_starts(served: Served, tmp_path: Path) -> None:
    served.hub.is_slow = True
    attempt = served.hub.command(f"touch {tmp_path}/began")
    served.hub.wait_for(attempt, "held")
    served.machine("systemctl", "stop", scope(attempt))
    served.hub.is_slow = False
    assert "before it could start" in served.hub.wait_for(attempt, "refused").reason
    assert not (tmp_path / "began").exists()


# A daemon that has left the session, the environment and, by a double fork, its parents.
_DAEMON = "env -i /bin/sh -c 'setsid sleep 1234 & exec true';"


def test_what_a_command_leaves_is_found(served: Served, tmp_path: Path) -> None:
    attempt = served.begin(tmp_path, _DAEMON)
    served.finish(attempt, tmp_path)
    until(lambda: list(served.group(scope(attempt)).values()) == ["sleep 1234"], 10, "the daemon alone")
    served.machine("systemctl", "stop", scope(attempt))
    assert not served.scopes()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_cancel_ends_all_that_is_in_the_scope(served: Served, tmp_path: Path, is_killed: bool) -> None:
    attempt = served.begin(tmp_path, _DAEMON)
    if is_killed:  # without its runner the daemon is nobody's child, and it has no mark
        runner = max(pid for pid, line in served.group(scope(attempt)).items() if " keep " in line)
        served.machine("kill", "-KILL", str(runner))
    else:
        served.hub.order(cancels=[attempt])
    assert (served.hub.wait_for(attempt, "done").done or {})["ended"] == ("killed" if is_killed else "canceled")
    until(lambda: not served.scopes(), 10, "the end of its scope")


def test_where_systemd_refuses_a_scope_the_command_runs_all_the_same(served: Served, tmp_path: Path) -> None:
    attempt = str(uuid.uuid4())
    served.machine("systemd-run", "--scope", "--quiet", f"--unit={scope(attempt)}", "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    served.hub.command(f"echo one; touch {tmp_path}/began; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo two; exit 7", attempt)
    until((tmp_path / "began").exists, 30)
    assert len(served.group(_SERVICE)) > 1
    served.machine("systemctl", "restart", _SERVICE)
    served.machine("systemctl", "stop", scope(attempt))
    served.finish(attempt, tmp_path)


def test_who_runs_it_beside_its_unit_is_told_of_systemd(served: Served) -> None:
    line = [*served.machine.enter, "python3", "/usr/local/lib/fleetflow-agent.py"]
    other = subprocess.run([*line, "run"], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert (other.returncode, f"as process {served.pid}; `systemctl stop fleetflow-agent` ends it" in other.stderr) == (2, True)
    shown = subprocess.run([*line, "status"], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert (shown.returncode, f"the service runs, as process {served.pid}" in shown.stdout) == (0, True), shown


def test_an_agent_that_was_revoked_is_not_started_again_until_somebody_does(served: Served) -> None:
    served.hub.error = (403, {"error": "this agent was revoked", "state": "revoked"})
    served.hub.order()
    until(lambda: served.machine.show(_SERVICE, "ActiveState") == "failed", 20)
    assert served.machine.show(_SERVICE, "ExecMainStatus") == "3"
    served.hub.error = None
    before = len(served.hub.known)
    served.machine("systemctl", "start", _SERVICE)
    until(lambda: len(served.hub.known) > before, 20)


def test_a_power_cut_loses_what_ran_and_its_service_says_so_when_the_host_is_back(served: Served, tmp_path: Path) -> None:
    ran = served.begin(tmp_path)
    until(lambda: served.hub[ran].stdout, 30)
    served.hub.is_slow = True
    held = served.hub.command(f"touch {tmp_path}/never")
    served.hub.wait_for(held, "held")
    served.hub.is_slow = False
    served.machine.lose_power()
    assert ((served.hub.wait_for(ran, "done").done or {})["ended"], served.hub[ran].stdout) == ("rebooted", b"one\n")
    assert "before it could start" in served.hub.wait_for(held, "refused").reason
    assert not (tmp_path / "never").exists()
    after = served.hub.command("echo back")
    assert served.hub.wait_for(after, "done").stdout == b"back\n"


def test_remove_ends_what_runs_and_names_what_a_command_had_left(served: Served, tmp_path: Path) -> None:
    left = served.begin(tmp_path, _DAEMON)
    served.finish(left, tmp_path)
    until(lambda: len(served.group(scope(left))) == 1, 10, "the daemon alone")
    (tmp_path / "go").unlink()
    (tmp_path / "began").unlink()
    served.begin(tmp_path)
    assert served.script("remove.sh", "") == [f"{scope(left)} goes on: it holds what its command left there", "removed"]
    assert served.scopes() == [scope(left)]
    served.machine("systemctl", "stop", scope(left))
    assert served.script("remove.sh", "") == ["there was none"]
    assert served.machine.show(_SERVICE, "LoadState") == "not-found"
    assert served.machine.show(_SLICE, "ActiveState") == "inactive"
    assert served.machine("find", "/etc/systemd/system", "/usr/local/lib", "/var/lib", "-name", "*fleetflow*") == ""
    assert "fleetflow-agent" not in served.machine("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
