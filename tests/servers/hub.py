"""A real hub with a database of its own, and real agent programs that call it."""

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from executors.agent import program
from executors.agent.executor import ByAgent
from models import database
from models.access import Access
from models.agents import Agents
from models.audit import Actor
from models.settings import Settings
from models.store import Store
from models.values import ExecutorKind, Host
from tests.until import until

TESTS = Actor("tests", "tests")


@dataclass
class Hub:
    """A hub process on one home; it can be killed and started again on the same port."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)  # more of its environment
    program: tuple[str, ...] = ("-m", "hub.serve")
    process: "subprocess.Popen[bytes] | None" = None
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=1024))
    _lifeline: int = -1
    _stores: list[Store] = field(default_factory=list)  # of the executors

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self.speaks_tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def speaks_tls(self) -> bool:
        """As these tests ask for it: by its setting, by a certificate, or by an address beyond loopback, on which nothing listens here."""
        return bool(self.settings.keys() & {"FLEETFLOW_HUB_TLS", "FLEETFLOW_HUB_CERT", "FLEETFLOW_HUB_HOST"})

    @property
    def fingerprint(self) -> str:
        """Of the certificate that it shows."""
        shown = ssl.get_server_certificate(("127.0.0.1", self.port))
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()

    @property
    def database(self) -> str:
        return self.settings.get("FLEETFLOW_DATABASE_URL", f"sqlite:///{self.home / 'fleetflow.db'}")

    @property
    def log(self) -> str:
        return (self.home / "hub.log").read_text()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        theirs, self._lifeline = os.pipe()
        with (self.home / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *self.program, str(self._listener.fileno()), str(theirs)],
                pass_fds=[theirs, self._listener.fileno()], env=self.environment, cwd=self.home, stdout=log, stderr=log,
            )  # fmt: skip
        os.close(theirs)
        until(self._answers, 90, "the hub")

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETFLOW_", "PREFECT_"))}
        return own | {"FLEETFLOW_HOME": str(self.home)} | self.settings

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()
        os.close(self._lifeline)
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            os.close(self._lifeline)
            self.process = None

    def close(self) -> None:
        self.stop()
        for store in self._stores:
            store.close()
        self._listener.close()

    def agents(self) -> Agents:
        return Agents(Access.open(self.database))

    def token(self, uses: int = 1000, *, approves: bool = True, seconds: float = 3600) -> str:
        return self.agents().make_token(seconds=seconds, uses=uses, approves=approves, by=TESTS)

    def _answers(self) -> bool:
        try:
            return httpx.post(f"{self.url}/agent/v1/sync", timeout=1, trust_env=False, verify=False).status_code == httpx.codes.UNAUTHORIZED
        except httpx.HTTPError:
            assert self.process
            assert self.process.poll() is None, self.log
            return False

    def executor(self, **settings: object) -> ByAgent:
        """A worker's executor on the same database, with a lease that nobody takes away."""
        owner = f"tests:home:{uuid.uuid4().hex[:12]}"
        store = Store.open(self.database)
        store.take_lease(owner, 3600)
        self._stores.append(store)
        made = Settings.load().model_copy(update={"database_url": self.database, **settings})
        made.__dict__["home"] = self.home
        return ByAgent(made, store.access, owner)


@contextmanager
def run_hub(home: Path, *, program: tuple[str, ...] = ("-m", "hub.serve"), **settings: str) -> Iterator[Hub]:
    """A hub on a new database, or on the one of its settings; `program` is what Python runs."""
    home.mkdir(parents=True, exist_ok=True)
    hub = Hub(home, settings, program)
    database.upgrade(hub.database)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


@dataclass
class RealAgent:
    """The agent program, as it runs on a host."""

    folder: Path
    name: str
    arguments: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def host(self) -> Host:
        return Host(name=self.name, executor=ExecutorKind.AGENT)

    @property
    def log(self) -> str:
        return (self.folder.with_suffix(".log")).read_text()

    def join(self, url: str, token: str, *arguments: str) -> None:
        done = self.try_to_join(url, token, *arguments)
        assert done.returncode == 0, done.stderr

    def try_to_join(self, url: str, token: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        own = ["--hub", url, "--token", token, "--name", self.name, "--state", str(self.folder), *arguments]
        return subprocess.run([sys.executable, program.__file__, "join", *own], capture_output=True, check=False, timeout=60)

    def start(self, *before: str) -> None:
        """Start it, behind the words of another program where that is to watch it."""
        with self.folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, program.__file__, "run", "--state", str(self.folder), *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def end(self) -> None:
        """Stop it, and what it still holds: that waits for an agent's next life."""
        self.stop()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if (line := path.read_bytes()).startswith(sys.executable.encode()) and f"{self.folder}/spool/".encode() in line:
                    os.kill(int(path.parent.name), signal.SIGKILL)


@contextmanager
def run_agent(hub: Hub, folder: Path, name: str = "web1", *, arguments: tuple[str, ...] = ()) -> Iterator[RealAgent]:
    """An approved agent."""
    agent = RealAgent(folder / name, name, arguments)
    agent.folder.parent.mkdir(parents=True, exist_ok=True)
    agent.join(hub.url, hub.token(), *(("--fingerprint", hub.fingerprint) if hub.speaks_tls else ()))
    agent.start()
    try:
        yield agent
    finally:
        agent.end()
