"""The local stack as people see it: `up`, `down`, `status`, and `ensure_stack`, which `run` calls.

Imported by every command: nothing here may import Prefect, SQLAlchemy or an HTTP client at the top.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from fleetflow.doorbell import ping
from fleetflow.preparing import prepare
from fleetflow.process import Process, of_session, wait_all
from fleetflow.state import Phase, StackState, forget_state, read_auth, read_state
from models.errors import UnavailableError
from models.settings import Settings

_LOCKED = 75  # exit code of a supervisor that found another one
_START = 120.0  # seconds a stack may take to get ready: a slow disk and a new database
_STOP = 40.0  # seconds it may take to end before it is killed
_TICK = 0.05
_LEFT = "`fleetflow up -d` follows what runs on hosts; over SSH with on_disconnect = linger that goes on for {:g} s"


@dataclass(frozen=True)
class Endpoint:
    """Where Prefect's API is, and the auth string it wants."""

    api_url: str
    auth: str | None


def ensure_stack(settings: Settings) -> Endpoint:
    """The Prefect API to use; starts the local stack when it does not run and no other API is configured.

    Returns within milliseconds when the stack runs. Raises `UnavailableError`.
    """
    _mention_ignored(os.environ)
    if settings.prefect_api_url:
        return _endpoint(settings, settings.prefect_api_url.rstrip("/"))
    state = read_state(settings.home)
    if state is None or state.phase is not Phase.READY or not state.is_running:
        state = _start(settings)
    return _endpoint(settings, state.api_url)


def is_gone(settings: Settings) -> bool:
    """Whether the local stack has ended, so that nobody works on its tasks any more."""
    state = read_state(settings.home)
    return not settings.prefect_api_url and (state is None or not state.is_running)


def up_command(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave the stack running in the background.")] = False,
) -> None:
    """Start Prefect's server and UI, the hub, the worker and the deployments.

    In the foreground everything ends with Ctrl-C; with -d it runs until `fleetflow down`. When `prefect_api_url` is set,
    that API is used, and only hub and worker are started.
    """
    settings = Settings.load()
    _mention_ignored(os.environ)
    running = read_state(settings.home)
    if running is not None and running.is_running and running.phase is not Phase.STOPPING:
        typer.echo("the stack runs already", err=True)
        _show(settings, _wait_until_ready(settings, None))
    elif detach:
        _show(settings, _start(settings))
    else:
        _run_in_foreground(settings)


def down_command(
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave commands on hosts to the next `up`.")] = False,
) -> None:
    """End the stack: first the worker, which cancels what it runs, then the hub and Prefect's server.

    With --keep-running, as for an upgrade, the commands of agents and those that linger or detach go on, and so does their task in the
    next worker; only those that would end with their connection are canceled, with their whole task.
    """
    settings = Settings.load()
    state = read_state(settings.home)
    living = state.living() if state else {}
    if state is None or not living:
        forget_state(settings.home)
        typer.echo("nothing was running")
        return
    typer.echo(f"ending {', '.join(f'{name} (process {process.pid})' for name, process in living.items())}")
    _end(settings, state, signal.SIGUSR1 if keep_running else signal.SIGTERM)
    typer.echo("the stack has ended" + (f"; {_LEFT.format(settings.linger)}" if keep_running else ""))


def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what runs, and how to log in to the UI. Exit code 1 when the stack does not run."""
    settings = Settings.load()
    state = read_state(settings.home)
    report = _report(settings, state)
    if as_json:
        typer.echo(json.dumps(report))
    elif state is None or not state.is_running:
        typer.echo(
            f"the stack of {settings.home} does not run; `fleetflow up -d` starts it"
            + (f"\nlast error: {state.error}" if state and state.error else "")
        )
    else:
        _show(settings, state)
    if not report["running"]:
        raise typer.Exit(1)


# Starting


def _start(settings: Settings) -> StackState:
    """Start the stack in a session of its own, and wait until it is ready. Of two that start at once one wins; both get its stack."""
    prepare(settings)
    typer.echo(f"starting fleetflow's local stack in {settings.home}", err=True)
    state = _wait_until_ready(settings, _spawn(settings))
    _mention_port(settings, state)
    return state


def _mention_port(settings: Settings, state: StackState) -> None:
    """Say that the UI is not where it usually is."""
    if not state.foreign and not state.ui_url.endswith(f":{settings.ui_port}"):
        typer.echo(f"port {settings.ui_port} is in use by something else; Prefect's UI and API are at {state.ui_url}", err=True)


def _spawn(settings: Settings, *, lifeline: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a supervisor: into the log, or, with a lifeline, into our own output and only as long as we live."""
    logs = settings.home / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-P", "-m", "fleetflow.supervisor"]
    if lifeline is not None:
        command += ["--echo", "--lifeline", str(lifeline)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with (logs / "stack.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment | {"FLEETFLOW_HOME": str(settings.home)},
            cwd=settings.home,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=None if lifeline is not None else log,
            stderr=log,
            pass_fds=[lifeline] if lifeline is not None else [],
        )


def _wait_until_ready(settings: Settings, supervisor: "subprocess.Popen[bytes] | None") -> StackState:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        state = read_state(settings.home)
        if state is not None and state.is_running and state.phase is Phase.READY:
            return state
        if supervisor is not None and supervisor.poll() is not None:
            supervisor = _after_death(settings, supervisor)
        time.sleep(_TICK)
    raise UnavailableError("the local stack", f"is not ready after {_START:g} s; its logs are in {settings.home / 'logs'}")


def _after_death(settings: Settings, supervisor: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """A supervisor that found another one tries again, in case that one is on its way out; any other death is told."""
    if supervisor.returncode != _LOCKED:
        raise _explain(settings, supervisor.returncode)
    time.sleep(0.5)
    return _spawn(settings)


def _explain(settings: Settings, code: int) -> UnavailableError:
    state = read_state(settings.home)
    if state is not None and state.phase is Phase.FAILED and state.error:
        return UnavailableError("the local stack", state.error)
    log = settings.home / "logs" / "stack.log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return UnavailableError(
        "the local stack", lines[-1].removeprefix("fleetflow: ") if lines else f"ended with exit code {code}; see {log}"
    )


def _run_in_foreground(settings: Settings) -> None:
    prepare(settings)
    ours, theirs = os.pipe()
    supervisor = _spawn(settings, lifeline=ours)
    os.close(ours)
    ending = _Ending()
    try:
        with ending:
            state = _wait_until_ready(settings, supervisor)
            _mention_port(settings, state)
            _show(settings, state)
            supervisor.wait()
    except (KeyboardInterrupt, _Terminated):
        typer.echo("ending the stack", err=True)
    finally:
        os.close(theirs)
        _await_end(settings, supervisor)
    if not ending.asked and supervisor.returncode:
        raise _explain(settings, supervisor.returncode)


# Ending


class _Terminated(BaseException):
    """TERM or HUP came while `up` ran in the foreground."""


class _Ending:
    """Turns TERM and HUP into an exception, as Python does with INT."""

    asked = False

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._raise) for number in (signal.SIGTERM, signal.SIGHUP)}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.asked = kind is not None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: object) -> None:
        raise _Terminated


def _await_end(settings: Settings, supervisor: "subprocess.Popen[bytes]") -> None:
    """Wait for a supervisor whose lifeline we have closed; another Ctrl-C ends everything at once."""
    try:
        supervisor.wait(_STOP + settings.drain_grace)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        if state := read_state(settings.home):
            _kill(state)
        supervisor.kill()
        supervisor.wait()


def _end(settings: Settings, state: StackState, how: signal.Signals) -> None:
    patience = _STOP + settings.drain_grace
    if state.supervisor.is_alive():
        state.supervisor.send(how)
        ended = state.supervisor.wait(patience)
    else:  # killed; its children end by themselves, for their lifeline is cut
        ended = wait_all(state.living().values(), patience)
    if not ended:
        typer.echo(f"it has not ended within {patience:g} s; killing it", err=True)
    _kill(state)
    forget_state(settings.home)


def _kill(state: StackState) -> None:
    """Kill what is left of the stack's session and of its children."""
    left: list[Process] = [*state.living().values(), *of_session(state.supervisor.pid)]
    for process in left:
        process.send(signal.SIGKILL)
    wait_all(left, 5)


# Showing


def _show(settings: Settings, state: StackState) -> None:
    login = read_auth(settings.home)
    if state.phase is not Phase.READY:
        typer.echo(f"the stack is {state.phase}")
    if state.foreign:
        typer.echo(f"Prefect  {state.api_url} (not ours; set by prefect_api_url)")
    else:
        typer.echo(f"UI       {state.ui_url}")
        typer.echo(f"log in   {login} (the whole line, user and password; it is kept in {settings.home / 'prefect.auth'})")
    typer.echo(f"hub      {state.hub_url}")
    typer.echo(f"pages    {_pages(settings, state)} (a token opens them: fleetflow token create NAME)")
    for name, process in state.living().items():
        restarts = state.restarts.get(name, 0)
        typer.echo(f"{name:<15}process {process.pid}" + (f", restarts: {restarts}" if restarts else ""))
    typer.echo(f"home     {settings.home}")


def _pages(settings: Settings, state: StackState) -> str:
    """Where people look at tasks and the fleet."""
    return f"{(settings.hub_url or state.hub_url).rstrip('/')}/tasks"


def _report(settings: Settings, state: StackState | None) -> dict[str, Any]:
    running = state is not None and state.is_running
    worker = ping(settings.home) if running else None
    return {
        "running": running,
        "phase": str(state.phase) if state and running else None,
        "home": str(settings.home),
        "api_url": state.api_url if state and running else settings.prefect_api_url,
        "ui_url": state.ui_url if state and running else None,
        "hub_url": state.hub_url if state and running else None,
        "pages_url": _pages(settings, state) if state and running else None,
        "auth_file": None if settings.prefect_api_url else str(settings.home / "prefect.auth"),
        "foreign_api": bool(settings.prefect_api_url),
        "work_pool": settings.work_pool,
        "processes": {name: process.pid for name, process in state.living().items()} if state else {},
        "restarts": state.restarts if state and running else {},
        "worker": worker,
        "version": state.version if state and running else None,
        "error": state.error if state and state.error else None,
    }


def _endpoint(settings: Settings, api_url: str) -> Endpoint:
    if settings.prefect_api_url:
        secret = settings.prefect_api_auth
        return Endpoint(api_url, secret.get_secret_value() if secret else None)
    return Endpoint(api_url, read_auth(settings.home))


def _mention_ignored(environ: Mapping[str, str]) -> None:
    """Say that Prefect's own configuration has no say here, where there is some."""
    named = [name for name in ("PREFECT_API_URL", "PREFECT_PROFILE") if environ.get(name)]
    if named:
        with suppress(BrokenPipeError):
            typer.echo(f"fleetflow: {' and '.join(named)} is ignored; FLEETFLOW_PREFECT_API_URL names another Prefect API", err=True)
