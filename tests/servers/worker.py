"""Real fleetflow workers, as the stack starts them, on the session's Prefect server."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.sockets import short_path
from tests.servers.prefect import PrefectServer
from tests.until import until

REPOSITORY = Path(__file__).parent.parent.parent
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Worker:
    """A worker process of one home and one work pool, both its own; it can be killed and started again."""

    server: PrefectServer
    home: Path
    pool: str = field(default_factory=lambda: f"pool-{uuid.uuid4().hex[:8]}")
    settings: dict[str, str] = field(default_factory=dict)  # more of its environment
    under: tuple[str, ...] = ()  # what runs it, as arguments of Python
    process: "subprocess.Popen[bytes] | None" = None
    _lifeline: int = -1
    _command: str = ""  # the deployment of run-command in this pool

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]  # for the flows of the tests
        ours = {"FLEETFLOW_HOME": str(self.home), "FLEETFLOW_WORK_POOL": self.pool, "PYTHONPATH": os.pathsep.join(paths)}
        return self.server.environment | ours | self.settings

    @property
    def database(self) -> str:
        return self.settings.get("FLEETFLOW_DATABASE_URL", f"sqlite:///{self.home / 'fleetflow.db'}")

    @property
    def log(self) -> str:
        return (self.home / "worker.log").read_text()

    def spawn(self) -> "subprocess.Popen[bytes]":
        theirs, self._lifeline = os.pipe()
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", *self.under, "-m", "flows.serve", str(theirs)],
                pass_fds=[theirs],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
            )
        os.close(theirs)
        return process

    def start(self) -> None:
        process = self.process = self.spawn()
        until(lambda: self.is_ready(process), 60, "the worker to answer")

    def is_ready(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, self.log
        return (self.ask({"ping": True}, 1) or {}).get("pid") == process.pid

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        os.close(self._lifeline)

    def terminate(self, seconds: float = 30) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    @contextmanager
    def connection(self, seconds: float = 10) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as client, short_path(self.home / "worker.sock") as path:
            client.settimeout(seconds)
            client.connect(path)
            yield client

    def ask(self, request: object, seconds: float = 10) -> dict[str, Any] | None:
        """Say one line to the socket; the answer, or None when nobody is there or says anything."""
        try:
            with self.connection(seconds) as client:
                client.sendall(json.dumps(request).encode() + b"\n")
                line = client.makefile("rb").readline()
        except OSError:
            return None
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def deploy(self, flow: str, **fields: object) -> str:
        """Deploy a flow by its dotted name; returns the deployment's id."""
        name = flow.rsplit(".", maxsplit=1)[-1]
        flow_id = self.server.post("/flows/", name=f"{name}-{self.pool}")["id"]
        body = {"name": "test", "flow_id": flow_id, "entrypoint": flow, "work_pool_name": self.pool, "pull_steps": []}
        return str(self.server.post("/deployments/", **body | {"enforce_parameter_schema": False} | fields)["id"])

    def start_deployment(self, flow: str, parameters: dict[str, object] | None = None, tags: tuple[str, ...] = ()) -> str:
        """Deploy a flow and start it; returns the flow run's id."""
        body = {"parameters": parameters or {}, "tags": tags, "idempotency_key": uuid.uuid4().hex}
        return str(self.server.post(f"/deployments/{self.deploy(flow)}/create_flow_run", **body)["id"])

    def trigger(self, flow: str, **parameters: object) -> str:
        """Start a flow of `tests.flows.tiny`; returns the flow run's id."""
        return self.start_deployment(f"tests.flows.tiny.{flow}", parameters)

    def run_command(self, command: str, target: str = "localhost", **parameters: object) -> str:
        """Start `run-command`; returns the flow run's id."""
        return self.start_deployment("flows.run_command.run_command", {"command": command, "target": target, **parameters})

    def begin(self, **parameters: object) -> str:
        """Start `run-command` on this worker; returns the flow run's id."""
        self._command = self._command or self.deploy("flows.run_command.run_command")
        body = {"parameters": {"target": "localhost"} | parameters, "idempotency_key": uuid.uuid4().hex}
        return str(self.server.post(f"/deployments/{self._command}/create_flow_run", **body)["id"])

    def run(self, flow: str, **parameters: object) -> dict[str, Any]:
        """Run a flow of `tests.flows.tiny` to its end; returns the flow run."""
        return self.end_of(self.trigger(flow, **parameters))

    def task_runs(self, flow_run_id: str) -> list[str]:
        """The states of a flow run's task runs."""
        found = self.server.post("/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
        return [task["state_type"] for task in found]

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.server.get(f"/flow_runs/{flow_run_id}")
        return run

    def end_of(self, flow_run_id: str, seconds: float = 30) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            run = self.flow_run(flow_run_id)
            return run if run["state_type"] in FINAL else None

        run = until(ended, seconds, f"the end of flow run {flow_run_id}; it was {self.flow_run(flow_run_id)['state_type']}", every=0.1)
        assert run is not None
        return run

    def cancel(self, flow_run_id: str) -> None:
        self.server.post(f"/flow_runs/{flow_run_id}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})


@contextmanager
def run_worker(server: PrefectServer, home: Path, **settings: str) -> Iterator[Worker]:
    """A worker that is running."""
    home.mkdir(parents=True, exist_ok=True)
    worker = Worker(server, home, settings=settings)
    worker.start()
    try:
        yield worker
    finally:
        if worker.process is not None and worker.process.poll() is None:
            worker.kill()
