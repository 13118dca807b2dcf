"""The agentless executor: commands over SSH, on connections that stay open."""

import asyncio
from collections.abc import Mapping

from executors.durable import ACK, Verb
from executors.lifeline import Session
from executors.protocol import Sink
from executors.ssh.connect import Dialler
from executors.ssh.conversation import Ended
from executors.ssh.credentials import Keyring
from executors.ssh.durable import DurableRun, Secrets, Shared
from executors.ssh.host_keys import HostKeys
from executors.ssh.login import Credentials
from executors.ssh.plan import Planner
from executors.ssh.pool import Pool
from executors.ssh.pulse import Pulse
from executors.ssh.run import Opener, Run, begin
from executors.ssh.slots import Slots
from executors.ssh.threads import Threads
from models.errors import ConnectionLostError, EndNotConfirmedError, SecretError, UnreachableError
from models.secrets import find_password, reveal
from models.settings import Settings
from models.values import Attempt, Command, EndedByHost, Host, OnDisconnect, Result, Stream

_HANDSHAKES = 20  # at the same time: more buy nothing
_HANDSHAKE_SECONDS = 0.5  # after which a handshake waits for its host, and no longer for the processor
_CONFIRM_SECONDS = 2.0  # beyond the grace, for the host to say that the command has ended


class Ssh:
    """Runs commands on hosts over SSH. All runs of one instance share one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = Threads("ssh")
        self._pulse = Pulse(self._threads, min(settings.beat_timeout / 3, 10.0))
        planner = Planner(settings, self._threads)
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
        self._opener = Opener(self._pool, planner, self._threads)
        self._durables = Shared(self._opener, settings)

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result | EndedByHost:
        """Run the command to its end; see `Executor`."""
        if self.outlives(command):
            return await self._durable(attempt, host, command, sink).start()
        run = await self._opener.open(host, lambda: self._session(attempt, host, command), sink)
        await begin(run, sink)
        try:
            ended = await run.follow()
        except asyncio.CancelledError:
            return await self._end(run)
        run.give_back(ended)
        return _result(run, ended)

    def outlives(self, command: Command) -> bool:
        """Only durable runs do; see `Recoverable`."""
        return command.on_disconnect is not OnDisconnect.END

    async def recover(
        self, attempt: Attempt, host: Host, command: Command, offsets: Mapping[Stream, int], sink: Sink
    ) -> Result | EndedByHost:
        """Follow a durable run to its end; see `Recoverable`."""
        return await self._durable(attempt, host, command, sink).attach(offsets)

    async def ack(self, attempt: Attempt, host: Host) -> None:
        """Let the host forget a durable run; see `Recoverable`."""
        run = self._durables.kept.pop(attempt.id, None)
        if run is None:  # its session is gone
            durable = self._durable(attempt, host, Command(script=""), _Deaf())
            run = await durable.ask(Verb.ACK, self._settings.connect_timeout)
        if run is not None:
            await run.close(ACK)

    async def release(self, attempt: Attempt) -> None:
        """Close the session of a durable run without a word; see `Recoverable`."""
        run = self._durables.kept.pop(attempt.id, None)
        if run is not None:
            await run.close()

    async def aclose(self) -> None:
        """Let go of all connections. Runs still under way are not waited for."""
        self._pulse.close()
        await self._pool.aclose()
        self._threads.close()

    async def _end(self, run: Run) -> Result:
        """After a cancel: have the host end the command, and see that it did."""
        run.hang_up()
        patience = self._settings.grace + _CONFIRM_SECONDS
        ended = await run.await_end(patience)
        if ended is Ended.CONNECTION:
            run.drop()
            raise EndNotConfirmedError(run.host, f"the host did not confirm within {patience:g} s that the command has ended")
        run.give_back(ended)
        if ended is Ended.MARK:
            return _result(run, ended)
        raise asyncio.CancelledError

    def _durable(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> DurableRun:
        return DurableRun(self._durables, attempt, host, command, self._reveal(host, command), sink)

    def _session(self, attempt: Attempt, host: Host, command: Command) -> Session:
        secrets = self._reveal(host, command)
        return Session(
            attempt,
            command,
            env=secrets.env,
            password=secrets.password,
            grace=self._settings.grace,
            beat_timeout=self._settings.beat_timeout,
        )

    def _reveal(self, host: Host, command: Command) -> Secrets:
        setting = self._settings.become_password
        try:
            return Secrets(reveal(command.env), find_password(command, setting.get_secret_value() if setting else None))
        except SecretError as error:
            raise UnreachableError(host.name, str(error)) from error


def _result(run: Run, ended: Ended) -> Result:
    if ended is Ended.MARK and run.session.exit_code is not None:
        return Result(exit_code=run.session.exit_code)
    if ended is Ended.SESSION:
        raise ConnectionLostError(run.host, "the session ended without an exit code: its shell was killed on the host")
    raise ConnectionLostError(run.host, f"the connection was lost while the command ran{run.why_closed}")


class _Deaf:
    """A sink for sessions that run nothing."""

    def step(self, what: str) -> None: ...

    def allow(self, seconds: float) -> None: ...

    async def starting(self) -> None: ...

    def output(self, stream: Stream, data: bytes) -> None: ...

    def left_out(self, stream: Stream, size: int) -> None: ...
