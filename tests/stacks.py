"""A whole stack for tests: Prefect's server, our worker and the command line, in a home of its own, with sshd as its fleet."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from fleetflow.state import StackState, read_state
from models.records import Execution, Task
from models.store import Store
from tests.servers.sshd import Sshd
from tests.until import until

PROGRAM = Path(sys.executable).parent / "fleetflow"
ASK_EVERY = 0.1  # seconds; Prefect's server has the same two processors
Done = subprocess.CompletedProcess[str]


@dataclass
class Stack:
    """A running stack, as its user sees it."""

    home: Path
    environ: dict[str, str]

    def __call__(self, *arguments: str, given: bytes | None = None, **changes: str) -> Done:
        """Run `fleetflow ARGUMENTS` to its end."""
        done = subprocess.run(
            [str(PROGRAM), *arguments], env=self.environ | changes, input=given, stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True, timeout=100, check=False, cwd=self.home.parent,
        )  # fmt: skip
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, stderr: Path | None = None) -> "subprocess.Popen[bytes]":
        """Start `fleetflow ARGUMENTS` in a process group of its own, as a terminal does."""
        with stderr.open("wb") if stderr else nullcontext(subprocess.PIPE) as into:
            return subprocess.Popen(
                [str(PROGRAM), *arguments], env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=into,
                process_group=0, cwd=self.home.parent,
            )  # fmt: skip

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that `fleetflow ARGUMENTS --json` prints."""
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return found

    @property
    def state(self) -> StackState:
        """What the stack has written down of itself: asked in no time, unlike `status`."""
        state = read_state(self.home)
        assert state is not None
        return state

    def kill_worker(self, task: Task) -> None:
        """`kill -9` of the one worker, whoever's the task is; the stack starts the next one."""
        del task
        os.kill(self.state.children["worker"].pid, signal.SIGKILL)

    def store(self) -> Store:
        return Store.open(self.environ.get("FLEETFLOW_DATABASE_URL", f"sqlite:///{self.home / 'fleetflow.db'}"))

    def newest(self) -> Task:
        store = self.store()
        try:
            return store.task(store.tasks(1)[0].id)
        finally:
            store.close()

    def executions(self, task: int) -> dict[str, Execution]:
        store = self.store()
        try:
            return {execution.host: execution for execution in store.executions(task)}
        finally:
            store.close()

    def output(self, execution: Execution) -> bytes:
        assert execution.attempt_id is not None
        store = self.store()
        try:
            return b"".join(piece.data for piece in store.output(execution.attempt_id))
        finally:
            store.close()

    # Prefect

    @cached_property
    def prefect(self) -> httpx.Client:
        """Prefect's API; one client, since to make one takes longer than to ask."""
        return httpx.Client(base_url=self.state.api_url, auth=self.auth, timeout=30, trust_env=False)

    @property
    def auth(self) -> tuple[str, str]:
        user, _, password = (self.home / "prefect.auth").read_text().strip().partition(":")
        return user, password

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask Prefect's API, again while its SQLite is busy."""

        def ask() -> httpx.Response | None:
            answer = self.prefect.request(method, path, json=body)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = until(ask, 30, f"an answer to {path}", every=ASK_EVERY)
        assert answer is not None
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def create_run(self, name: str = "run-command/fleet", **parameters: object) -> uuid.UUID:
        deployment = self.api("GET", f"/deployments/name/{name}")
        run = self.api(
            "POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        )
        return uuid.UUID(run["id"])

    def flow_run(self, flow_run_id: object) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/flow_runs/{flow_run_id}")
        return found

    def ended(self, flow_run_id: object, seconds: float = 60) -> dict[str, Any]:
        """The flow run, once it has reached a final state."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}

        def has_ended() -> dict[str, Any] | None:
            found = self.flow_run(flow_run_id)
            return found if found["state"]["type"] in final else None

        found = until(has_ended, seconds, "the flow run's end", every=ASK_EVERY)
        assert found is not None
        return found


@contextmanager
def run_stack(home: Path, fleet: Sshd, **environ: str) -> Iterator[Stack]:
    """Start a stack whose user has `fleet` in ~/.ssh/config for all of 127.0.0.0/8, and end it with all that it started."""
    person = home.parent / f"{home.name}-user"
    (person / ".ssh").mkdir(parents=True, mode=0o700)
    (person / ".ssh" / "config").write_text(
        f"Host 127.*\n  Port {fleet.port}\n  User root\n  IdentityFile {fleet.identity}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {fleet.known_hosts}\n  GlobalKnownHostsFile none\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETFLOW_", "PREFECT_", "SSH_"))}
    stack = Stack(home, own | {"HOME": str(person), "FLEETFLOW_HOME": str(home), "FLEETFLOW_UI_PORT": str(port)} | environ)
    try:
        up = stack("up", "-d")
        assert up.returncode == 0, up.stderr
        yield stack
    finally:
        stack.prefect.close()
        stack("down")


def marked(attempt_or_word: str) -> list[int]:
    """The processes of this machine that have a word in their environment: what a command left behind."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if attempt_or_word.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def new_word() -> str:
    """A word that stands nowhere else on this machine."""
    return f"canary-{secrets.token_hex(8)}"
