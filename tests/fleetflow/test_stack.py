"""The local stack: one command starts it, it mends itself, and one command ends all of it."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleetflow.process import Process, of_session
from fleetflow.state import Phase, StackState, read_auth, read_state, write_state
from fleetflow.supervisor import listen_for_agents
from models.errors import UnavailableError
from models.settings import Settings
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.until import until

REPOSITORY = Path(__file__).parent.parent.parent
_MAIN = "from fleetflow.__main__ import main; main()"
_ENSURE = """
import sys
from fleetflow.stack import ensure_stack
from models.settings import Settings
print(ensure_stack(Settings.load()).api_url, *sorted({"prefect", "sqlalchemy", "httpx"} & set(sys.modules)))
"""


@dataclass
class Home:
    """A FLEETFLOW_HOME and what people type in it."""

    path: Path
    extra: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLEETFLOW_"))}
        paths = os.pathsep.join([str(REPOSITORY), *filter(None, [clean.get("PYTHONPATH")])])
        return clean | {"FLEETFLOW_HOME": str(self.path), "PYTHONPATH": paths} | self.extra

    def spawn(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-P", "-c", code, *arguments]
        return subprocess.Popen(command, env=self.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def fleetflow(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.spawn(_MAIN, *arguments)
        stdout, stderr = process.communicate(timeout=100)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    @property
    def state(self) -> StackState:
        state = read_state(self.path)
        assert state is not None
        return state

    def is_ready(self) -> bool:
        state = read_state(self.path)
        return state is not None and state.is_running and state.phase is Phase.READY

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.fleetflow("status", "--json").stdout)
        return report


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A whole stack of its own, which two commands started at the same time while another program had the usual port."""
    home = Home(tmp_path_factory.mktemp("stack"), {})
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another program has it indeed
            other.bind(("127.0.0.1", 4200))
            other.listen()
        starts = [home.spawn(_ENSURE) for _ in range(2)]
        outputs = [start.communicate(timeout=110) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0], "both got the same stack"
    assert all(f"port 4200 is in use by something else; Prefect's UI and API are at {home.state.ui_url}\n" in said for _, said in outputs)
    yield home
    home.fleetflow("down")


@pytest.fixture
def foreign(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Home]:
    """A home whose Prefect is somebody else's: its stack is a worker alone."""
    pool = f"stack-{tmp_path.name}"
    settings = {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_API_AUTH": prefect_server.auth, "WORK_POOL": pool}
    home = Home(tmp_path / "home", {f"FLEETFLOW_{name}": value for name, value in settings.items()})
    yield home
    home.fleetflow("down")


def test_two_starts_at_once_make_one_stack_on_a_free_port(stack: Home) -> None:
    assert set(stack.state.living()) == {"supervisor", "prefect-server", "hub", "worker"}
    assert stack.state.api_url != "http://127.0.0.1:4200/api"


def test_a_running_stack_is_found_at_once_and_without_heavy_imports(stack: Home) -> None:
    process = stack.spawn(_ENSURE)
    assert process.communicate(timeout=20) == (f"{stack.state.api_url}\n", "")


def test_the_api_is_closed_to_those_who_cannot_read_the_home(stack: Home) -> None:
    login = read_auth(stack.path)
    assert login is not None
    user, _, password = login.partition(":")
    assert httpx.get(f"{stack.state.api_url}/admin/version").status_code == 401
    assert httpx.get(f"{stack.state.api_url}/admin/version", auth=(user, password)).is_success
    assert (stack.path / "prefect.auth").stat().st_mode & 0o777 == 0o600
    assert stack.path.stat().st_mode & 0o777 == 0o700


def test_status_says_what_runs_and_how_to_log_in(stack: Home) -> None:
    shown = stack.fleetflow("status")
    assert shown.returncode == 0
    assert stack.state.ui_url in shown.stdout
    assert f"{stack.state.hub_url}/tasks" in shown.stdout
    assert str(read_auth(stack.path)) in shown.stdout
    report = stack.status()
    assert (report["running"], report["phase"], report["worker"]["pid"]) == (True, "ready", stack.state.children["worker"].pid)


def test_the_pool_names_the_database_and_the_deployment_is_there(stack: Home) -> None:
    user, _, password = str(read_auth(stack.path)).partition(":")
    store = Store.open(f"sqlite:///{stack.path / 'fleetflow.db'}")
    identity = store.identity()
    store.close()
    with httpx.Client(base_url=stack.state.api_url, auth=(user, password)) as api:
        assert identity in api.get("/work_pools/fleetflow").json()["description"]
        assert api.get("/deployments/name/run-command/fleet").json()["entrypoint"] == "flows.run_command.run_command"


def test_up_on_a_running_stack_says_so(stack: Home) -> None:
    before = stack.state
    again = stack.fleetflow("up", "-d")
    assert (again.returncode, again.stderr) == (0, "the stack runs already\n")
    assert stack.state == before


@pytest.mark.parametrize("child", ["worker", "hub", pytest.param("prefect-server", marks=pytest.mark.slow)])
def test_a_child_that_dies_is_started_again(stack: Home, child: str) -> None:
    before = stack.state
    before.children[child].send(signal.SIGKILL)
    until(lambda: stack.state.children.get(child) not in {None, before.children[child]}, 20, "a new process")
    until(lambda: httpx.get(f"{before.api_url}/health", timeout=60).is_success, 60, "Prefect to answer")
    until(lambda: (stack.status()["worker"] or {}).get("pid") == stack.state.children["worker"].pid, 30, "the worker to answer")
    assert stack.status()["restarts"][child] == 1


def test_down_ends_everything(stack: Home) -> None:
    living = stack.state.living().values()
    port = int(stack.state.ui_url.rpartition(":")[2])
    ended = stack.fleetflow("down")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "the stack has ended")
    assert not [process for process in living if process.is_alive()]
    socket.create_server(("127.0.0.1", port)).close()
    assert not (stack.path / "stack.json").exists()
    assert stack.fleetflow("down").stdout == "nothing was running\n"
    assert (stack.fleetflow("status").returncode, stack.status()["running"]) == (1, False)


# With Prefect's API of somebody else, whose stack is quick to start


def test_with_another_api_up_starts_hub_and_worker_alone_and_says_so(foreign: Home, prefect_server: PrefectServer) -> None:
    foreign.extra["FLEETFLOW_HUB_TLS"] = "on"
    started = foreign.fleetflow("up", "-d")
    assert started.returncode == 0, started.stderr
    assert f"{prefect_server.api_url} (not ours" in started.stdout
    assert set(foreign.state.living()) == {"supervisor", "hub", "worker"}
    _check_hub(foreign, started.stdout)
    assert foreign.fleetflow("down").returncode == 0
    assert prefect_server.get("/health") is True


def _check_hub(home: Home, shown: str) -> None:
    """Its hub speaks TLS, and whoever shows its address says so, with the fingerprint by which agents know it."""
    url = home.state.hub_url
    assert f"hub      {url}\n" in shown
    assert url.startswith("https://127.0.0.1:")
    on_the_wire = ssl.get_server_certificate(("127.0.0.1", int(url.rpartition(":")[2])))
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(on_the_wire)).hexdigest()
    hub = json.loads(home.fleetflow("hub", "--json").stdout)
    assert (hub["url"], hub["fingerprint"]) == (url, fingerprint)
    assert f"join --hub {url} --fingerprint {fingerprint} --token " in home.fleetflow("agent", "join").stdout
    assert "--fingerprint" not in home.fleetflow("agent", "join", "--hub", "http://localhost:1").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_up_in_the_foreground_ends_all_it_started(foreign: Home, number: signal.Signals) -> None:
    up = foreign.spawn(_MAIN, "up")
    until(foreign.is_ready, 60, "the stack")
    session = list(of_session(foreign.state.supervisor.pid))
    assert len(session) == 3
    up.send_signal(number)
    up.communicate(timeout=30)
    assert up.returncode == (-9 if number is signal.SIGKILL else 0)
    until(lambda: not any(process.is_alive() for process in session), 20, "all processes to end")


def test_a_killed_supervisor_takes_its_children_along_and_the_next_up_starts_anew(foreign: Home) -> None:
    assert foreign.fleetflow("up", "-d").returncode == 0
    before = foreign.state
    before.supervisor.send(signal.SIGKILL)
    assert foreign.fleetflow("up", "-d").returncode == 0
    assert not before.children["worker"].is_alive()
    assert foreign.state.supervisor != before.supervisor


@pytest.mark.slow
def test_a_pool_of_another_database_is_refused(foreign: Home, tmp_path: Path) -> None:
    assert foreign.fleetflow("up", "-d").returncode == 0
    other = Home(tmp_path / "other", foreign.extra)
    refused = other.fleetflow("up", "-d")
    assert refused.returncode == 4
    assert "belongs to the stack with database" in refused.stderr.splitlines()[-1]
    assert not other.state.is_running


@pytest.mark.slow
def test_a_command_line_with_another_database_than_the_worker_sends_nothing(foreign: Home, tmp_path: Path) -> None:
    assert foreign.fleetflow("up", "-d").returncode == 0
    other = Home(tmp_path / "other", foreign.extra)
    assert other.fleetflow("db", "upgrade").returncode == 0
    refused = other.fleetflow("run", "true", "-t", "localhost")
    assert refused.returncode == 4
    assert "is not the one that the worker" in refused.stderr.splitlines()[-1]
    assert foreign.fleetflow("run", "echo hi", "-t", "localhost").stdout == "localhost: hi\n"


# What goes wrong


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("PREFECT_API_AUTH", "wrong:password", "refuses our login"),
        pytest.param("PREFECT_API_URL", "http://127.0.0.1:1/api", "does not answer", marks=pytest.mark.slow),
    ],
)
def test_another_api_that_does_not_want_us_fails_the_start(foreign: Home, setting: str, value: str, message: str) -> None:
    refused = Home(foreign.path, foreign.extra | {f"FLEETFLOW_{setting}": value}).fleetflow("up", "-d")
    assert refused.returncode == 4
    assert message in refused.stderr.splitlines()[-1]


def test_a_port_that_is_taken_is_one_line_and_exit_code_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = Home(tmp_path, {"FLEETFLOW_UI_PORT": str(port)}).fleetflow("up", "-d")
    assert refused.returncode == 4
    assert refused.stderr.splitlines()[-1].startswith(f"fleetflow: the local stack: port {port}: is in use by something else")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_the_hub_listens_where_it_is_told_to_and_on_the_same_port_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    monkeypatch.setenv("FLEETFLOW_HOME", str(tmp_path))
    settings = Settings(hub_host=host)
    with listen_for_agents(settings) as first:
        found = first.getsockname()
        with pytest.raises(UnavailableError, match=rf"port {found[1]}: is in use"):
            listen_for_agents(Settings(hub_host=host, hub_port=found[1]))
    assert found[0] == host
    with listen_for_agents(settings) as again:
        assert again.getsockname() == found
    with pytest.raises(UnavailableError, match=r"192\.0\.2\.1 port 0: "):
        listen_for_agents(Settings(hub_host="192.0.2.1"))


@pytest.mark.parametrize("command", [("up", "-d"), ("up",)])
def test_a_home_that_cannot_be_written_is_one_line_and_exit_code_4(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    refused = Home(tmp_path / "file" / "home", {}).fleetflow(*command)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (4, 1)


@pytest.mark.slow
def test_a_database_of_a_newer_version_fails_the_start_with_its_own_line(foreign: Home) -> None:
    foreign.path.mkdir()
    broken = foreign.path / "fleetflow.db"
    broken.write_bytes(b"this is no database" * 100)
    refused = foreign.fleetflow("up", "-d")
    assert refused.returncode == 4
    assert "fleetflow.db" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"phase": "ready"}', "\x00\xff"])
def test_a_broken_state_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    home = Home(tmp_path, {})
    assert home.fleetflow("status").returncode == 1
    assert home.fleetflow("down").stdout == "nothing was running\n"


def test_a_process_id_that_was_given_again_is_never_killed(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    before = Process(innocent.pid, "another boot:1")
    state = StackState(phase=Phase.READY, supervisor=before, children={"worker": before}, api_url="", foreign=False, version="0")
    write_state(tmp_path, state)
    assert Home(tmp_path, {}).fleetflow("down").stdout == "nothing was running\n"
    time.sleep(0.1)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_prefects_own_variables_are_ignored_with_one_line(tmp_path: Path) -> None:
    settings = {"FLEETFLOW_PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_API_URL": "http://127.0.0.1:2/api"}
    process = Home(tmp_path, settings).spawn(_ENSURE)
    stdout, stderr = process.communicate(timeout=20)
    assert (stdout, len(stderr.splitlines())) == ("http://127.0.0.1:1/api\n", 1)
    assert "PREFECT_API_URL is ignored" in stderr
