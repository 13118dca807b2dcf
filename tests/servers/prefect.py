"""A real Prefect server on a free port, with a home and a database of its own; one for the whole session."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from fleetflow.environment import prefect_environment
from tests.until import until


@dataclass
class PrefectServer:
    """`api` talks to it as a client outside Prefect does."""

    home: Path
    auth: str
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    process: "subprocess.Popen[bytes] | None" = None
    lifeline: int = -1
    _port: int = 0

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return prefect_environment(self.home, self.api_url, self.auth)

    @cached_property
    def api(self) -> httpx.Client:
        """A client; one, since to make one takes longer than to ask."""
        user, _, password = self.auth.partition(":")
        return httpx.Client(base_url=self.api_url, auth=(user, password), timeout=30)

    def start_again(self) -> None:
        """Start at the port of before, whose listener has been closed."""
        self.listener = socket.create_server(("127.0.0.1", self._port))
        self.start()

    def start(self) -> None:
        self._port = self.port
        theirs, self.lifeline = os.pipe()
        environment = self.environment | {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(self.port)}
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server", str(self.listener.fileno()), str(theirs)],
                pass_fds=(self.listener.fileno(), theirs),
                env=environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
            )
        os.close(theirs)
        until(self._is_healthy, 60, "Prefect's server to answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            os.close(self.lifeline)
            self.process = None

    def _is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "server.log").read_text()
        try:
            return self.api.get("/health", timeout=1).is_success
        except httpx.TransportError:
            return False

    # What tests ask it

    def post(self, path: str, json: object = None, **body: object) -> Any:
        """POST, again while the server's SQLite is busy."""
        while (answer := self.api.post(path, json=body if json is None else json)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            time.sleep(0.1)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def run_prefect_server(home: Path) -> Iterator[PrefectServer]:
    """A server that is running."""
    server = PrefectServer(home, auth=f"test:{secrets.token_hex(8)}")
    server.start()
    try:
        yield server
    finally:
        server.api.close()
        server.kill()
        server.listener.close()
