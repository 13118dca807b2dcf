"""The agent program as a process, with a state folder of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.executors.agent.hub import AGENT, Hub
from tests.until import until

PROGRAM = Path(__file__).parents[3] / "executors" / "agent" / "program.py"


class Agent:
    """One host's agent, as somebody would start it by hand."""

    def __init__(self, state: Path, hub: Hub, url: str) -> None:
        self.state = state
        self.hub = hub
        self.url = url
        self.said = state.parent / f"{state.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def verb(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """One verb to its end."""
        line = [sys.executable, "-W", "error", str(PROGRAM), *words]
        return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def join(self, *words: str, word: str = "good") -> subprocess.CompletedProcess[str]:
        return self.verb("join", "--hub", self.url, "--token", word, "--name", "web1", "--state", str(self.state), *words)

    def start(self, *words: str, before: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> "Agent":
        line = [*before, sys.executable, str(PROGRAM), "run", "--state", str(self.state), *words]
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(line, stderr=said, env={**os.environ, **(environment or {})})
        return self

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @property
    def words(self) -> str:
        return self.said.read_text()

    def keepers(self, attempt: str = "") -> list[int]:
        """The processes of ours beside a command: keeper and runner, the keeper first."""
        return sorted(pid for pid, line in _lines() if str(self.state / "spool" / attempt).encode() in line and b"keep" in line)

    def spool(self, attempt: str) -> Path:
        return self.state / "spool" / attempt

    def end(self) -> None:
        """End all that is left of it."""
        if self.process and self.process.poll() is None:
            self.kill()
        for pid in self.keepers():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in _marked(set(self.hub.told)):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.keepers(), 30)


@contextmanager
def enrolled(folder: Path, hub: Hub, url: str) -> Iterator[Agent]:
    """An agent as `join` leaves it, which is still to be started."""
    agent = Agent(folder / "state", hub, url)
    agent.state.mkdir(mode=0o700, exist_ok=True)
    identity = {"hub": url, "fingerprint": "", "name": "web1", "generation": 1, "agent": AGENT, "credential": hub.credential}
    (agent.state / "identity").write_text(json.dumps(identity))
    (agent.state / "identity").chmod(0o600)
    try:
        yield agent
    finally:
        agent.end()


def _lines() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield int(path.parent.name), path.read_bytes()


def _marked(attempts: set[str]) -> Iterator[int]:
    """What these have left behind, found in one look."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            _, mark, rest = path.read_bytes().partition(b"FLEETFLOW_ATTEMPT=")
            if mark and rest[:36].decode("ascii", "replace") in attempts:
                yield int(path.parent.name)
