"""What the local stack says about itself, in FLEETFLOW_HOME/stack.json: its processes, its address, and how far it has come."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from fleetflow.process import Process
from models.errors import UnavailableError


class Phase(StrEnum):
    """How far the stack has come."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class StackState:
    """The stack as its supervisor last wrote it down; the processes may have ended since."""

    phase: Phase
    supervisor: Process
    api_url: str
    foreign: bool  # the API is another's: nothing of it is ours to start or stop
    version: str
    children: dict[str, Process] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    hub_url: str = ""  # of the hub that agents call
    error: str = ""
    exit_code: int = 0

    @property
    def is_running(self) -> bool:
        return self.phase is not Phase.FAILED and self.supervisor.is_alive()

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/api")

    def living(self) -> dict[str, Process]:
        """The processes that still run, the supervisor first."""
        return {name: process for name, process in {"supervisor": self.supervisor, **self.children}.items() if process.is_alive()}


def read_state(home: Path) -> StackState | None:
    """The stack's state; None where there is none, or none that can be read (a torn or foreign file is as good as none)."""
    try:
        raw = json.loads((home / "stack.json").read_bytes())
        return StackState(
            phase=Phase(raw["phase"]),
            supervisor=Process(**raw["supervisor"]),
            api_url=str(raw["api_url"]),
            foreign=bool(raw["foreign"]),
            version=str(raw["version"]),
            children={str(name): Process(**process) for name, process in raw["children"].items()},
            restarts={str(name): int(number) for name, number in raw["restarts"].items()},
            hub_url=str(raw["hub_url"]),
            error=str(raw["error"]),
            exit_code=int(raw["exit_code"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(home: Path, state: StackState) -> None:
    draft = home / "stack.json.new"
    draft.write_text(json.dumps(asdict(state), indent=2) + "\n")
    draft.chmod(0o600)
    draft.replace(home / "stack.json")


def forget_state(home: Path) -> None:
    (home / "stack.json").unlink(missing_ok=True)


def read_auth(home: Path) -> str | None:
    """The auth string `user:password` of the stack's own Prefect server."""
    try:
        return (home / "prefect.auth").read_text().strip() or None
    except OSError:
        return None


def make_auth(home: Path) -> str:
    """The auth string, made up on first use: without it every user of this machine could run commands on the fleet."""
    if known := read_auth(home):
        return known
    file = home / "prefect.auth"
    try:
        file.unlink(missing_ok=True)
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(f"fleetflow:{secrets.token_urlsafe(24)}\n")
    except OSError as error:
        raise UnavailableError(f"file {file}", error.strerror or str(error)) from None
    return file.read_text().strip()
