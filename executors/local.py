"""The executor for the worker's own machine: commands as children, ended by their lifeline like those on other hosts."""

import asyncio
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from executors.lifeline import BEAT, GO, LOCAL_ARGV, Session
from executors.protocol import Sink
from models.errors import ConnectionLostError, EndNotConfirmedError, SecretError, UnreachableError
from models.secrets import find_password, reveal
from models.values import Attempt, Command, Host, Result, Stream

_CONFIRM_SECONDS = 2.0  # beyond the grace, to see that the command has ended
_LAST_WORDS = 0.5  # seconds for output still under way when the wrapper is dead
_STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UMASK = 0o022


class Local:
    """Runs commands on the worker's machine, as its user and in its home, with the environment that a login would give.

    That is HOME, USER, LOGNAME, SHELL and PATH, with LANG, LC_*, TZ and TMPDIR as the worker has them; nothing else of the
    worker's own environment, so that none of its secrets gets to a command by itself.
    """

    def __init__(self, *, grace: float, beat_timeout: float, become_password: str | None = None) -> None:
        self._grace = grace
        self._beat_timeout = beat_timeout
        self._become_password = become_password
        self._environment = _login_environment()
        home = self._environment["HOME"]
        self._home = home if Path(home).is_dir() else "/"

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result:
        """Run the command to its end; see `Executor`."""
        session = self._session(attempt, host, command)
        sink.step(session.step)
        child = await self._start(host.name, session, sink)
        try:
            await _prepare(child, host.name, session)
            await sink.starting()
        except BaseException:
            await child.finish(_CONFIRM_SECONDS)
            raise
        return await self._carry_out(child, host.name, session)

    async def aclose(self) -> None:
        """Nothing: no run leaves anything behind."""

    def _session(self, attempt: Attempt, host: Host, command: Command) -> Session:
        try:
            env = reveal(command.env)
            password = find_password(command, self._become_password)
        except SecretError as error:
            raise UnreachableError(host.name, str(error)) from error
        return Session(attempt, command, env=env, password=password, grace=self._grace, beat_timeout=self._beat_timeout)

    async def _start(self, host: str, session: Session, sink: Sink) -> "_Child":
        loop = asyncio.get_running_loop()
        try:
            _, child = await loop.subprocess_exec(
                lambda: _Child(session, sink), *LOCAL_ARGV, env=self._environment, cwd=self._home, umask=_UMASK, start_new_session=True
            )
        except OSError as error:
            raise UnreachableError(host, f"a shell could not be started: {error.strerror}") from error
        return child

    async def _carry_out(self, child: "_Child", host: str, session: Session) -> Result:
        patience = self._grace + _CONFIRM_SECONDS
        child.send(GO)
        child.beat_every(min(self._beat_timeout / 3, 10.0))
        try:
            await child.until(lambda: session.exit_code is not None)
        except asyncio.CancelledError:
            is_dead = await child.finish(patience)
            if session.exit_code is None:
                if is_dead:
                    raise
                raise EndNotConfirmedError(host, f"the command did not end within {patience:g} s") from None
        else:
            await child.finish(_CONFIRM_SECONDS)
        if session.exit_code is None:
            raise ConnectionLostError(host, "the session ended without an exit code: its shell was killed")
        return Result(exit_code=session.exit_code)


async def _prepare(child: "_Child", host: str, session: Session) -> None:
    child.send(session.payload)
    await child.until(lambda: session.ready or session.refusal is not None)
    if session.refusal is not None:
        raise UnreachableError(host, session.refusal)
    if not session.ready and session.why_ended:
        raise UnreachableError(host, session.why_ended)
    if not session.ready:
        raise UnreachableError(host, f"the shell ended early: {session.last_words.decode(errors='replace').strip() or 'it said nothing'}")


class _Child(asyncio.SubprocessProtocol):
    """The wrapper as a child process: feeds the session, passes the output on, and wakes who waits."""

    _transport: asyncio.SubprocessTransport

    def __init__(self, session: Session, sink: Sink) -> None:
        self._session = session
        self._sink = sink
        self._news = asyncio.Event()
        self._streaming = set(_STREAMS)
        self._is_dead = False
        self._beat: asyncio.TimerHandle | None = None
        self._last_words: asyncio.TimerHandle | None = None

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds, or until nothing more can come."""
        while not (holds() or (self._is_dead and not self._streaming)):
            self._news.clear()
            await self._news.wait()

    def send(self, data: bytes) -> None:
        stdin = self._transport.get_pipe_transport(0)
        if isinstance(stdin, asyncio.WriteTransport) and not stdin.is_closing():
            stdin.write(data)

    def beat_every(self, seconds: float) -> None:
        def beat() -> None:
            self.send(BEAT)
            self.beat_every(seconds)

        self._beat = asyncio.get_running_loop().call_later(seconds, beat)

    async def finish(self, patience: float) -> bool:
        """End the lifeline, and give the wrapper `patience` seconds to die, whatever comes; whether it is dead."""
        self._hang_up()
        deadline = asyncio.get_running_loop().time() + patience
        while not self._is_over and asyncio.get_running_loop().time() < deadline:
            self._news.clear()
            with suppress(asyncio.CancelledError, TimeoutError):  # a second cancel must not leave processes behind
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
        if self._last_words:
            self._last_words.cancel()
        with suppress(PermissionError):  # it would kill sudo, which is root's, if that is still there
            self._transport.close()
        return self._is_dead

    @property
    def _is_over(self) -> bool:
        return self._is_dead and (self._session.exit_code is not None or not self._streaming)

    def _hang_up(self) -> None:
        if self._beat:
            self._beat.cancel()
        stdin = self._transport.get_pipe_transport(0)
        if isinstance(stdin, asyncio.WriteTransport) and not stdin.is_closing():
            stdin.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        output = self._session.feed(_STREAMS[fd], data)
        if output:
            self._sink.output(_STREAMS[fd], output)
        if reply := self._session.reply():
            self.send(reply)
        self._news.set()

    def pipe_connection_lost(self, fd: int, _exc: Exception | None) -> None:
        self._streaming.discard(fd)
        self._news.set()

    def process_exited(self) -> None:
        self._is_dead = True
        self._news.set()
        self._last_words = asyncio.get_running_loop().call_later(_LAST_WORDS, self._stop_streaming)

    def _stop_streaming(self) -> None:
        """What still holds the streams open was left behind; its output is not the command's."""
        self._streaming.clear()
        self._news.set()


def _login_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in {"LANG", "TZ", "TMPDIR"} or key.startswith("LC_")}
    try:
        user = pwd.getpwuid(os.geteuid())
    except KeyError:  # a number without a name, as in some containers
        return {**kept, "HOME": os.environ.get("HOME", "/"), "SHELL": "/bin/sh", "PATH": _PATH}
    return {
        **kept,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
        "PATH": _PATH,
    }
