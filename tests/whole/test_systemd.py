"""`fleetflow agent install` on a machine that a real systemd looks after, from the first agent to nothing left."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.states import ExecutionState
from tests.programs import need
from tests.servers.machine import Machine, run_machine
from tests.servers.sshd import Sshd, free_port, greets
from tests.stacks import Stack
from tests.until import until

pytestmark = pytest.mark.slow

_ADDRESS = "127.9.2.1"
_SERVICE = "fleetflow-agent.service"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "machine").mkdir()
    with run_machine(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def target(machine: Machine, sshd: Sshd, tmp_path: Path) -> str:
    """The machine as a host of the fleet, by an sshd that is a service there."""
    port = free_port()
    text = re.sub(r"(?m)^(Port|PidFile) .*\n", "", (sshd.folder / "sshd_config").read_text())
    (tmp_path / "sshd_config").write_text(f"Port {port}\nPidFile none\n{text}")
    machine("systemd-run", "--quiet", "--unit=sshd", need("sshd"), "-D", "-e", "-f", str(tmp_path / "sshd_config"))
    until(lambda: greets(port), 10)
    return f"{_ADDRESS}:{port}"


def test_an_agent_is_installed_restarted_and_upgraded_under_a_command_and_leaves_nothing(
    stack: Stack, machine: Machine, target: str, tmp_path: Path
) -> None:
    install = ("agent", "install", "-t", target, "--host-key", "off")
    done = stack(*install)
    assert (done.returncode, done.stdout) == (0, f"{target}: agent {_ADDRESS} is installed; systemd looks after it\n"), done.stderr
    assert machine.show(_SERVICE, "ActiveState") == "active"
    script = f"cat /proc/self/cgroup; touch {tmp_path}/began; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo end"
    assert stack("run", script, "-t", _ADDRESS, "--no-wait").returncode == 0
    until((tmp_path / "began").exists, 60, "the command")
    task, former = stack.newest(), machine.show(_SERVICE, "MainPID")
    machine("systemctl", "restart", _SERVICE)
    assert stack(*install).returncode == 0
    assert machine.show(_SERVICE, "MainPID") != former, "the newer program runs"
    (tmp_path / "go").touch()
    until(
        lambda: next(one for one in stack.rows("task", "list") if one["task"] == task.id)["state"] == "succeeded", 60, "the command's end"
    )
    (execution,) = stack.executions(task.id).values()
    output = stack.output(execution).decode()
    assert execution.state is ExecutionState.SUCCEEDED
    assert re.search(r"/system\.slice/system-fleetflow\.slice/fleetflow-[0-9a-f-]{36}\.scope\n", output), output
    assert output.endswith("end\n")
    gone = stack("agent", "remove", "-t", target, "--host-key", "off")
    assert (gone.returncode, gone.stdout) == (0, f"{target}: removed\n"), gone.stderr
    assert machine.show(_SERVICE, "LoadState") == "not-found"
    assert machine("systemctl", "list-units", "--no-legend", "--plain", "fleetflow*", "system-fleetflow*") == ""
    assert machine("find", "/etc/systemd/system", "/usr/local/lib", "/var/lib", "-name", "*fleetflow*") == ""
