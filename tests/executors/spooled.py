"""A host with a home of its own, over pipes: what is asked of it about durable runs, and what it keeps."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from executors.durable import Verb, wrapper
from executors.lifeline import Session
from models.values import Attempt
from tests.executors.processes import children, describe, marked, members
from tests.executors.wrapped import Wrapped
from tests.programs import need
from tests.until import until

SHELLS = ("dash", "busybox", "bash")


class Spooled:
    """One home, and the shell that is its `sh`."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.shell = shell
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.sh, self.path = _shell(shell, folder)
        self._made: list[Wrapped] = []

    @property
    def spool(self) -> Path:
        return self.home / ".fleetflow" / "spool"

    def wrapped(
        self,
        script: str,
        verb: Verb = Verb.START,
        attempt: Attempt | None = None,
        *,
        stdin: bytes = b"",
        interpreter: tuple[str, ...] = (),
        grace: float = 0.4,
        beat_timeout: float = 30,
        environment: dict[str, str] | None = None,
        argv: list[str] | None = None,
        **options: object,
    ) -> Wrapped:
        """A session that is still to be prepared; `options` are the wrapper's."""
        made = Wrapped(
            self.sh,
            script,
            argv=argv,
            attempt=attempt,
            stdin=stdin,
            interpreter=interpreter,
            grace=grace,
            beat_timeout=beat_timeout,
            environment={"HOME": str(self.home), "PATH": self.path} | (environment or {}),
            wrapper=lambda known: wrapper(known, verb, grace=grace, **options),  # type: ignore[arg-type]  # as they are given
        )
        self._made.append(made)
        return made

    def start(self, script: str, **options: object) -> Wrapped:
        return self.wrapped(script, **options).start()  # type: ignore[arg-type]  # as they are given

    def ask(self, verb: Verb, attempt: Attempt, **options: object) -> Wrapped:
        """A session that has told its verdict."""
        asked = self.wrapped("", verb, attempt, **options).start()  # type: ignore[arg-type]  # as they are given
        asked.read_until(lambda: asked.session.verdict)
        return asked

    def verdict(self, verb: Verb, attempt: Attempt) -> str:
        """What the host says, to somebody who then leaves."""
        asked = self.ask(verb, attempt)
        asked.vanish()
        asked.process.wait(10)
        return asked.session.verdict or ""

    @property
    def tombs(self) -> Path:
        return self.home / ".fleetflow" / "acked"

    def files(self, attempt: Attempt) -> set[str]:
        """What is left of a run in the spool, and its tombstone."""
        spooled = {path.name.removeprefix(f"{attempt.id}.") for path in self.spool.glob(f"{attempt.id}.*")}
        return spooled | {"tombstone" for _ in self.tombs.glob(str(attempt.id))}

    def left(self) -> list[int]:
        """The processes of all sessions, the commands' and the wrappers'."""
        attempts = {made.attempt.id: made.attempt for made in self._made}  # several sessions may ask of one
        ours = [pid for attempt in attempts.values() for pid in marked(attempt)]
        return list({*ours, *(pid for made in self._made for pid in members(made.pid))})

    def nothing_left(self, seconds: float = 5) -> None:
        """See that all sessions end, and that nothing of them goes on."""
        try:
            until(lambda: not self.left(), seconds)
        except AssertionError as error:
            raise AssertionError(f"these go on: {[describe(pid) for pid in self.left()]}") from error

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


@contextmanager
def spooled(shell: str, folder: Path) -> Iterator[Spooled]:
    """A host, all of whose processes are ended afterwards."""
    host = Spooled(shell, folder)
    try:
        yield host
    finally:
        host.close()


def watcher_of(run: Wrapped) -> int:
    """The process of a started run's watcher: main has started it, and the command."""
    ours = set(marked(run.attempt))
    return until(lambda: next((pid for pid in children(run.pid) if pid not in ours), 0), 5, "the watcher")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def refusal(session: Session) -> str:
    return session.refusal or ""


def _shell(name: str, folder: Path) -> tuple[str, str]:
    """`sh` and its PATH: for busybox nothing but its own applets."""
    programs = folder / f"bin-{name}"
    programs.mkdir()
    (programs / "sh").symlink_to(need(name))
    if name != "busybox":
        return str(programs / "sh"), "/usr/bin:/bin"
    applets = subprocess.run([need(name), "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "sh" and "/" not in applet:
            (programs / applet).symlink_to(need(name))
    return str(programs / "sh"), str(programs)
