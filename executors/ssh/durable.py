"""A durable run over SSH: started on one session and, when that is lost, followed on others, to the end that the host tells."""

import asyncio
import random
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from executors.durable import CANCEL, Verb, wrapper
from executors.lifeline import Session
from executors.protocol import Sink
from executors.ssh.conversation import Ended
from executors.ssh.run import Opener, Run, begin
from models.errors import ConnectionLostError, EndNotConfirmedError, NeverStartedError, SpoolLostError, UnreachableError
from models.settings import Settings
from models.states import ExecutionState
from models.values import Attempt, Command, EndedByHost, Host, OnDisconnect, Result, Stream

_CONFIRM_SECONDS = 4.0  # beyond the grace, for the host to say that the command has ended, and what it printed last
_TIMEOUT_SLACK = 5.0  # seconds that the host lets us apply a timeout first
_PAUSE = 0.2, 5.0  # seconds between tries to reach a host again: at first, and at most
_SPOOL = 64 * 1024 * 1024  # bytes of each stream that a host keeps at least

_REASONS = {
    "lost rebooted": "the host was rebooted while the command ran",
    "lost killed": "the wrapper and its supervisor were killed on the host",
    "acked": "the spool is gone: the host was told that its outcome is known",
    "absent": "the spool is gone from the host",
}
_ENDS = {
    "ended timed_out": EndedByHost(state=ExecutionState.TIMED_OUT, reason="timed out; the host ended it while nobody was attached"),
    "ended abandoned": EndedByHost(
        state=ExecutionState.FAILED, reason="abandoned: nobody was attached for too long, and the host ended it", exit_code=143
    ),
    "ended full": EndedByHost(
        state=ExecutionState.FAILED, reason="it printed more than the host can keep (no fallocate there), and was ended", exit_code=143
    ),
    "ended canceled": EndedByHost(state=ExecutionState.CANCELED, reason="canceled"),
}


@dataclass(frozen=True)
class Shared:
    """What all durable runs of one executor share."""

    opener: Opener
    settings: Settings
    kept: dict[uuid.UUID, Run] = field(default_factory=dict)  # sessions whose host waits to be told that it may forget the run
    tidied: set[str] = field(default_factory=set)  # hosts whose spool was looked at, and that were asked to sweep old tombstones


@dataclass(frozen=True)
class Secrets:
    """What a command's secrets stand for."""

    env: Mapping[str, str]
    password: str | None  # of sudo


class DurableRun:
    """One attempt on one host. The session that has told its end stays in `shared.kept`."""

    def __init__(self, shared: Shared, attempt: Attempt, host: Host, command: Command, secrets: Secrets, sink: Sink) -> None:
        self._attempt = attempt
        self._host = host
        self._command = command
        self._sink = sink
        self._secrets = secrets
        self._shared = shared
        self._settings = shared.settings
        self._kept = shared.kept

    async def start(self) -> Result | EndedByHost:
        """Run the command, and follow it to its end."""
        run = await self._open(Verb.START)
        self._shared.tidied.add(self._host.name)  # not sooner: what was refused is looked at again
        await begin(run, self._sink)
        return await self._follow(run)

    async def attach(self, offsets: Mapping[Stream, int]) -> Result | EndedByHost:
        """Follow a run that may have started; see `Recoverable.recover`."""
        try:
            run = await self._reach(offsets, "its worker died")
        except asyncio.CancelledError:
            return await self._end(None)
        return await self._follow(run)

    async def _follow(self, run: Run) -> Result | EndedByHost:
        while True:
            try:
                ended = await run.follow()
                if ended is Ended.MARK:
                    return await self._judge(run)
                run.give_back(ended)
                run = await self._reach(run.session.offsets, f"the connection was lost while the command ran{run.why_closed}")
            except asyncio.CancelledError:
                return await self._end(run)

    async def _judge(self, run: Run) -> Result | EndedByHost:
        verdict = run.session.verdict or ""
        if verdict.startswith("exit "):
            self._kept[self._attempt.id] = run
            return Result(exit_code=int(verdict.removeprefix("exit ")))
        if verdict in _ENDS:
            self._kept[self._attempt.id] = run
            return _ENDS[verdict]
        await run.close()
        if verdict == "void":
            raise NeverStartedError(self._host.name, "the connection was lost before it could start")
        raise SpoolLostError(self._host.name, _REASONS.get(verdict, f"the host says {verdict!r}"))

    async def _reach(self, offsets: Mapping[Stream, int], why: str) -> Run:
        """A session that goes on at these offsets; tried until the host has certainly given the command up."""
        loop = asyncio.get_running_loop()
        window = self._window
        give_up = loop.time() + window
        pause = _PAUSE[0]
        while True:
            try:
                async with asyncio.timeout_at(give_up):
                    return await self._open(Verb.ATTACH, offsets)
            except (UnreachableError, TimeoutError) as error:
                if loop.time() + pause > give_up:
                    reason = f"{why}, and the host was not seen for {window:g} s"
                    raise ConnectionLostError(self._host.name, reason) from error
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, no secret
            pause = min(2 * pause, _PAUSE[1])

    @property
    def _window(self) -> float:
        settings = self._settings
        lingering = settings.linger + settings.beat_timeout + settings.grace + _CONFIRM_SECONDS
        return lingering if self._command.on_disconnect is OnDisconnect.LINGER else max(lingering, settings.lost_after)

    async def _end(self, run: Run | None) -> Result | EndedByHost:
        """After a cancel: have the host end the command, and see that it did."""
        patience = self._settings.grace + _CONFIRM_SECONDS
        if run is not None and run.is_open:
            run.say(CANCEL)
            if await run.await_end(patience) is Ended.MARK:
                return await self._heed_end(run)
            run.drop()
        asking = asyncio.ensure_future(self.ask(Verb.CANCEL, patience))
        while not asking.done():
            with suppress(asyncio.CancelledError):  # a second cancel does not make the host faster
                await asyncio.wait({asking})
        asked = asking.result()
        if asked is not None:
            await asked.close()
        if asked is None or not (asked.session.verdict or "").startswith(("exit ", "ended ", "void")):
            raise EndNotConfirmedError(self._host.name, f"the host did not confirm within {patience:g} s that the command has ended")
        raise asyncio.CancelledError

    async def _heed_end(self, run: Run) -> Result | EndedByHost:
        if run.session.verdict == "ended canceled":
            self._kept[self._attempt.id] = run
            raise asyncio.CancelledError
        return await self._judge(run)

    async def ask(self, verb: Verb, seconds: float) -> Run | None:
        """A session that has told what it knows; None when that cannot be had in time."""
        run = None
        try:
            async with asyncio.timeout(seconds):
                run = await self._open(verb)
                ended = await run.follow()
        except (UnreachableError, TimeoutError):
            if run is not None:
                run.drop()
            return None
        if ended is Ended.MARK:
            return run
        run.give_back(ended)
        return None

    async def _open(self, verb: Verb, offsets: Mapping[Stream, int] | None = None) -> Run:
        return await self._shared.opener.open(self._host, lambda: self._session(verb, offsets), self._sink)

    def _is_first(self) -> bool:
        """Whether this is the first run on the host since we started: it looks at the spool's mode, and has old tombstones swept."""
        return self._host.name not in self._shared.tidied

    def _session(self, verb: Verb, offsets: Mapping[Stream, int] | None) -> Session:
        command, settings = self._command, self._settings
        around = wrapper(
            self._attempt,
            verb,
            grace=settings.grace,
            linger=settings.linger if command.on_disconnect is OnDisconnect.LINGER else None,
            timeout=None if command.timeout is None else command.timeout + _TIMEOUT_SLACK,
            limit=max(_SPOOL, 4 * settings.output_limit),
            offsets=offsets,
            tidies=verb is Verb.START and self._is_first(),
        )
        return Session(
            self._attempt,
            command,
            env=self._secrets.env,
            password=self._secrets.password,
            grace=settings.grace,
            beat_timeout=settings.beat_timeout,
            wrapper=around,
        )
