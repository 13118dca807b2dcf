"""The agentless executor: commands over SSH, on connections that stay open."""

import asyncio
from contextlib import suppress

import paramiko

from executors.lifeline import Session
from executors.protocol import Sink
from executors.ssh.connect import Dialler
from executors.ssh.connection import Connection
from executors.ssh.conversation import Conversation, Ended
from executors.ssh.credentials import Keyring
from executors.ssh.host_keys import HostKeys
from executors.ssh.login import Credentials
from executors.ssh.plan import Planner
from executors.ssh.pool import Pool
from executors.ssh.pulse import Pulse
from executors.ssh.route import Route
from executors.ssh.slots import Slots
from executors.ssh.threads import Threads
from models.errors import ConnectionLostError, EndNotConfirmedError, SecretError, UnreachableError
from models.secrets import reveal
from models.settings import Settings
from models.values import Attempt, Command, Host, Result

_HANDSHAKES = 20  # at the same time: more buy nothing
_HANDSHAKE_SECONDS = 0.5  # after which a handshake waits for its host, and no longer for the processor
_CONFIRM_SECONDS = 2.0  # beyond the grace, for the host to say that the command has ended


class Ssh:
    """Runs commands on hosts over SSH. All runs of one instance share one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = Threads("ssh")
        self._pulse = Pulse(self._threads, min(settings.beat_timeout / 3, 10.0))
        self._planner = Planner(settings, self._threads)
        passphrase, password = settings.ssh_passphrase, settings.ssh_password
        dialler = Dialler(
            threads=self._threads,
            slots=Slots(_HANDSHAKES, _HANDSHAKE_SECONDS),
            host_keys=HostKeys(),
            credentials=Credentials(
                Keyring(passphrase.get_secret_value() if passphrase else None), password.get_secret_value() if password else None
            ),
            patience=settings.connect_timeout,
        )
        self._pool = Pool(dialler, self._pulse, idle=settings.ssh_idle, size=settings.ssh_connections)

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result:
        """Run the command to its end; see `Executor`."""
        sink.step("reading the SSH configuration")
        route = await self._planner.route(host)
        for is_last in (False, True):
            run = _Run(host.name, self._pool, self._threads, self._session(attempt, host, command), sink)
            if await run.prepare(route, is_last=is_last):
                break
        return await run.carry_out(self._settings.grace + _CONFIRM_SECONDS)

    async def aclose(self) -> None:
        """Let go of all connections. Runs still under way are not waited for."""
        self._pulse.close()
        await self._pool.aclose()
        self._threads.close()

    def _session(self, attempt: Attempt, host: Host, command: Command) -> Session:
        try:
            env = reveal(command.env)
        except SecretError as error:
            raise UnreachableError(host.name, str(error)) from error
        return Session(attempt, command, env=env, grace=self._settings.grace, beat_timeout=self._settings.beat_timeout)


class _Run:
    """One run on a session of its own; the connection is given back with its end."""

    _connection: Connection
    _talk: Conversation | None = None

    def __init__(self, host: str, pool: Pool, threads: Threads, session: Session, sink: Sink) -> None:
        self._host = host
        self._pool = pool
        self._threads = threads
        self._session = session
        self._sink = sink

    async def prepare(self, route: Route, *, is_last: bool) -> bool:
        """Bring the host to the point where only the start is missing; False if the connection broke and may be replaced."""
        try:
            self._connection, (self._talk, ended) = await self._pool.open(self._host, route, self._sink.step, self._begin)
        except asyncio.CancelledError:
            self._abandon()
            raise
        if ended is Ended.READY:
            return True
        self._pool.give_back(self._connection, healthy=ended is not Ended.CONNECTION)
        if ended is Ended.CONNECTION and not is_last:
            return False
        raise UnreachableError(self._host, self._why_not_ready(ended))

    def _begin(self, connection: Connection, channel: paramiko.Channel) -> tuple[Conversation, Ended]:
        """In a thread: talk on a new session until the host is ready."""
        self._sink.step("starting the shell")
        self._talk = Conversation(connection, channel, self._session, self._sink)
        return self._talk, self._talk.prepare()

    async def carry_out(self, patience: float) -> Result:
        """Start the command and follow it to its end; a cancel gives the host `patience` seconds to end it."""
        assert self._talk is not None  # noqa: S101 - prepare has returned True
        talk = self._talk
        try:
            await self._sink.starting()
        except BaseException:
            self._drop()
            raise
        following = asyncio.wrap_future(self._threads.start(talk.start))
        try:
            ended = await asyncio.shield(following)
        except asyncio.CancelledError:
            return await self._end(talk, following, patience)
        except BaseException:
            self._drop()
            raise
        self._pool.give_back(self._connection, healthy=ended is not Ended.CONNECTION)
        return self._result(ended)

    async def _end(self, talk: Conversation, following: "asyncio.Future[Ended]", patience: float) -> Result:
        """After a cancel: have the host end the command, and see that it did."""
        self._threads.start(talk.hang_up)
        await _wait(following, patience)
        ended = following.result() if following.done() else Ended.CONNECTION
        if ended is Ended.CONNECTION:
            self._drop()
            raise EndNotConfirmedError(self._host, f"the host did not confirm within {patience:g} s that the command has ended")
        self._pool.give_back(self._connection, healthy=True)
        if ended is Ended.MARK:
            return self._result(ended)
        raise asyncio.CancelledError

    def _result(self, ended: Ended) -> Result:
        if ended is Ended.MARK and self._session.exit_code is not None:
            return Result(exit_code=self._session.exit_code)
        if ended is Ended.SESSION:
            raise ConnectionLostError(self._host, "the session ended without an exit code: its shell was killed on the host")
        raise ConnectionLostError(self._host, f"the connection was lost while the command ran{self._connection.why_closed}")

    def _why_not_ready(self, ended: Ended) -> str:
        if ended is Ended.REFUSED:
            return self._session.refusal or "the host refuses the command"
        if ended is Ended.SESSION:
            said = self._session.last_words.decode(errors="backslashreplace").strip().splitlines()
            return f"the host ended the session before the command could start ({said[-1] if said else 'it said nothing'})"
        return f"the connection broke while starting the shell{self._connection.why_closed}"

    def _drop(self) -> None:
        """Give up a run whose thread may be stuck, and the connection with it."""
        self._pool.give_back(self._connection, healthy=False)
        self._abandon()

    def _abandon(self) -> None:
        if self._talk is not None:
            self._threads.start(self._talk.abandon)


async def _wait(future: "asyncio.Future[Ended]", seconds: float) -> None:
    """Wait for a future whatever comes: a second cancel does not make the host faster."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not future.done() and loop.time() < deadline:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future}, timeout=deadline - loop.time())
