"""The first process of a local stack: starts Prefect's server, the hub and the worker, starts again what dies, and ends all.

`python -m fleetflow.supervisor [--echo] [--lifeline FD]`, in a session of its own. It keeps the port open
over restarts of the server, so that a client only waits where it would have been refused.
"""

import argparse
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from setproctitle import setproctitle

from fleetflow.doorbell import ping
from fleetflow.environment import prefect_environment
from fleetflow.logs import BoundedLog, LastLine, follow
from fleetflow.preparing import prepare
from fleetflow.process import Process, of_session, wait_all
from fleetflow.state import Phase, StackState, forget_state, make_auth, read_state, write_state
from models.address import url as hub_url
from models.errors import FleetflowError, UnavailableError
from models.owner import make_home
from models.settings import Settings

LOCKED = 75  # exit code when another supervisor has this home
SERVER, HUB, WORKER = "prefect-server", "hub", "worker"
_TICK = 0.1  # seconds between looks at the worker until it is ready
_PORTS = 100  # ports tried after the usual one
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a child that died is started again
_BACKLOG = 4096  # connections that wait while server or hub is started again
_GRACE = {WORKER: 20.0, HUB: 5.0, SERVER: 5.0}  # seconds to end after TERM; the worker first ends what it runs


@dataclass
class Child:
    """A process of the stack, and its next start after a death."""

    name: str
    command: list[str]
    log: BoundedLog
    popen: "subprocess.Popen[bytes] | None" = None
    process: Process | None = None
    started_at: float = 0.0
    restarts: int = 0
    wait: float = _FIRST_WAIT
    due: float = 0.0
    last: LastLine = field(default_factory=LastLine)


class Supervisor:
    """Runs the children of one home until it is told to stop."""

    def __init__(self, settings: Settings, *, echo: bool) -> None:
        self._settings = settings
        self._home = settings.home
        self._echo = echo
        self._wake = threading.Event()
        self._signals = 0
        self._keeps = False
        self._lifeline, self._their_lifeline = os.pipe()
        self._ready = False
        if settings.prefect_api_url:
            self._listener = None
            auth = settings.prefect_api_auth
            self._auth = auth.get_secret_value() if auth else None
            api_url = settings.prefect_api_url.rstrip("/")
        else:
            any_port = "ui_port" not in settings.model_fields_set
            self._listener = _listen("127.0.0.1", settings.ui_port, any_port=any_port, setting="FLEETFLOW_UI_PORT")
            self._auth = make_auth(self._home)
            api_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self._hub = listen_for_agents(settings)
        self._state = StackState(
            phase=Phase.STARTING,
            supervisor=Process.current(),
            api_url=api_url,
            foreign=self._listener is None,
            version=version("fleetflow"),
            hub_url=hub_url(settings, self._hub.getsockname()[1]),
        )
        self._children = [self._child(name) for name in ([HUB, WORKER] if self._listener is None else [SERVER, HUB, WORKER])]

    def _child(self, name: str) -> Child:
        python = [sys.executable, "-P", "-m"]  # -P: a folder `flows` where somebody stands is not ours
        lifeline = str(self._lifeline)
        if name == SERVER and self._listener is not None:
            command = [*python, "flows.server", str(self._listener.fileno()), lifeline]
        elif name == HUB:
            command = [*python, "hub.serve", str(self._hub.fileno()), lifeline]
        else:
            command = [*python, "flows.serve", lifeline]
        return Child(name, command, BoundedLog(self._home / "logs" / f"{name}.log"))

    def run(self) -> int:
        """Run the stack to its end; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.set())
        write_state(self._home, self._state)
        try:
            while not self._signals and self._state.phase is not Phase.FAILED:
                self._look_after_children()
                self._wake.wait(self._pause())
                self._wake.clear()
        finally:
            self._end_children()
        return self._leave()

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self._keeps = self._keeps or number == signal.SIGUSR1
        self._signals += 1
        self._wake.set()

    def stop(self) -> None:
        self._on_signal(0, None)

    def _pause(self) -> float:
        return _TICK if not self._ready or any(child.due for child in self._children) else 5.0

    def _look_after_children(self) -> None:
        for child in self._children:
            if child.popen is None and time.monotonic() >= child.due:
                self._start(child)
            elif child.popen is not None and child.popen.poll() is not None:
                self._bury(child, child.popen.returncode)
        if not self._ready and self._worker_answers():
            self._ready = True
            self._write(phase=Phase.READY)

    def _start(self, child: Child) -> None:
        environment = prefect_environment(self._home, self._state.api_url, self._auth)
        descriptors = [self._lifeline, *([self._hub.fileno()] if child.name == HUB else [])]
        if self._listener is not None:
            port = self._listener.getsockname()[1]
            environment |= {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
            descriptors.append(self._listener.fileno())
        child.popen = subprocess.Popen(
            child.command,
            env=environment | {"FLEETFLOW_HOME": str(self._home), "FLEETFLOW_HUB_URL": self._settings.hub_url or self._state.hub_url},
            cwd=self._home,  # Prefect reads prefect.toml and .env where it stands
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert child.popen.stdout is not None  # noqa: S101 - a pipe, as asked for; for mypy
        follow(child.name, child.popen.stdout, child.log, child.last, echo=self._echo)
        child.process, child.started_at, child.due = Process.of(child.popen.pid), time.monotonic(), 0.0
        self._write()

    def _bury(self, child: Child, code: int) -> None:
        """Plan the next start of a child that died; an error of ours before the stack was ever ready is for people to mend."""
        child.popen = child.process = None
        if not self._ready and code in {2, 4}:
            time.sleep(_TICK)  # its last line may still be on its way
            self._write(
                phase=Phase.FAILED,
                error=child.last.text.removeprefix(f"fleetflow {child.name}: ") or f"{child.name} ended with exit code {code}",
                exit_code=code,
            )
            return
        if time.monotonic() - child.started_at > _LONGEST_WAIT:
            child.wait = _FIRST_WAIT
        _say(f"{child.name} ended with exit code {code} ({child.last.text}); starting it again in {child.wait:g} s")
        child.due, child.wait = time.monotonic() + child.wait, min(child.wait * 2, _LONGEST_WAIT)
        child.restarts += 1
        self._write()

    def _worker_answers(self) -> bool:
        worker = self._children[-1].process
        answer = ping(self._home) if worker is not None else None
        return answer is not None and worker is not None and answer.get("pid") == worker.pid

    def _write(self, phase: Phase | None = None, error: str = "", exit_code: int = 0) -> None:
        self._state = replace(
            self._state,
            phase=phase or self._state.phase,
            children={child.name: child.process for child in self._children if child.process},
            restarts={child.name: child.restarts for child in self._children},
            error=error,
            exit_code=exit_code,
        )
        with suppress(OSError):  # a full disk must not end a stack that runs
            write_state(self._home, self._state)

    def _end_children(self) -> None:
        """The worker first: it still has to tell Prefect how its runs ended, or (USR1) to leave them to the next one."""
        if self._state.phase is not Phase.FAILED:
            self._write(phase=Phase.STOPPING)
        for child in reversed(self._children):
            if child.process is not None and child.popen is not None:
                child.process.send(signal.SIGUSR1 if self._keeps and child.name == WORKER else signal.SIGTERM)
                grace = _GRACE[child.name] + (self._settings.drain_grace if child.name == WORKER else 0)
                self._await_end(child.popen, grace)
                child.process.send(signal.SIGKILL)
                child.popen.wait()
        left = [process for process in of_session(os.getsid(0)) if process.pid != os.getpid()]
        for process in left:
            process.send(signal.SIGKILL)
        wait_all(left, 2)

    def _await_end(self, popen: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Wait for a child; a further signal to us cuts the wait short."""
        deadline, signals = time.monotonic() + seconds, self._signals
        while popen.poll() is None and time.monotonic() < deadline and self._signals == signals:
            self._wake.wait(_TICK)
            self._wake.clear()

    def _leave(self) -> int:
        if self._state.phase is Phase.FAILED:
            self._write(phase=Phase.FAILED, error=self._state.error, exit_code=self._state.exit_code)
            return self._state.exit_code
        forget_state(self._home)
        return 0


def _listen(host: str, port: int, *, setting: str, any_port: bool = False) -> socket.socket:
    """Listen on a port; on the next free one for `any_port`, where nobody chose."""
    for candidate in range(port, min(port + _PORTS, 65536) if any_port else port + 1):
        try:
            return _create(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UnavailableError(f"{host} port {candidate}", error.strerror or str(error)) from None
    advice = f"set {setting} to a free port, or end what uses it"
    raise UnavailableError(f"port {port}", f"is in use by something else; {advice}")


def _create(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6())


def listen_for_agents(settings: Settings) -> socket.socket:
    """Listen for the hub. Where nobody chose a port, on the same as the last time, so that agents find it again."""
    host, kept = settings.hub_host, settings.home / "hub.port"
    if settings.hub_port:
        return _listen(host, settings.hub_port, setting="FLEETFLOW_HUB_PORT")
    with suppress(OSError, ValueError, OverflowError):
        return _create(host, int(kept.read_text()))
    listener = _listen(host, 0, setting="FLEETFLOW_HUB_PORT")
    kept.write_text(f"{listener.getsockname()[1]}\n")
    return listener


def _say(line: str) -> None:
    print(time.strftime("%F %H:%M:%S"), line, flush=True)  # noqa: T201 - into the stack's log, or the terminal of `up`


def _hold_lock(home: Path) -> int | None:
    """The descriptor whose lock says that this home's stack is ours; None when another has it."""
    descriptor = os.open(home / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end_predecessor(home: Path) -> None:
    """End the children of a supervisor that was killed: they are on their way out, but still have the port."""
    state = read_state(home)
    if state is None:
        return
    left = [process for process in state.children.values() if process.is_alive()]
    if not wait_all(left, sum(_GRACE.values())):
        for process in left:
            process.send(signal.SIGKILL)
        wait_all(left, 5)


def _stop_with(lifeline: int, stop: Callable[[], None]) -> None:
    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        stop()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main() -> int:
    setproctitle("fleetflow stack")
    parser = argparse.ArgumentParser()
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--lifeline", type=int)
    options = parser.parse_args()
    try:
        settings = Settings.load()
    except FleetflowError as error:
        print(f"fleetflow: {error}", file=sys.stderr)  # noqa: T201 - as below
        return error.exit_code
    make_home(settings.home)
    if _hold_lock(settings.home) is None:
        return LOCKED
    _end_predecessor(settings.home)
    try:
        prepare(settings)
        supervisor = Supervisor(settings, echo=options.echo)
    except FleetflowError as error:
        print(f"fleetflow: {error}", file=sys.stderr)  # noqa: T201 - whoever started us passes this line on
        return error.exit_code
    if options.lifeline is not None:
        _stop_with(options.lifeline, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    raise SystemExit(main())
