"""Takes one host of a task from its turn to its recorded end, over all its tries."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from executors.attempt import carry_out, take_up
from executors.outlast import outlast
from executors.protocol import Executor, Recoverable
from flows.brake import Brake
from flows.places import Place
from models.errors import HeldError, NeverStartedError, TransitionError
from models.policy import Policy
from models.recorder import Recorder, Recording
from models.records import Claim, Outcome
from models.states import ExecutionState
from models.store import Store
from models.values import Command, ExecutorKind, Host, Stream

OnEnd = Callable[[str, Outcome, Recording], None]

_NEVER_STARTED = Outcome(state=ExecutionState.UNREACHABLE, error="it could not start before the connection, or the worker, was gone")
_TRIED_AGAIN = frozenset({ExecutionState.FAILED, ExecutionState.UNREACHABLE})


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What holds for all hosts of one task."""

    command: Command
    policy: Policy
    connect_timeout: float  # seconds
    connect_timeout_is_default: bool
    owner: str
    store: Store
    recorder: Recorder
    executors: Mapping[ExecutorKind, Executor]
    secrets: Callable[[Host | None], list[str]]  # that are masked in what a host prints
    slots: asyncio.Semaphore
    brake: Brake
    on_end: OnEnd


class HostRun:
    """One host. A cancel ends the command on the host, is recorded, and goes through."""

    def __init__(self, terms: Terms, claim: Claim, host: Host | None, place: Place) -> None:
        self._terms = terms
        self._claim = claim
        self._host = host
        self._kind = (host and host.executor) or ExecutorKind.SSH
        self._executor = terms.executors[self._kind]
        self._place = place
        self._taken: Recording | None = None
        self._delays = terms.policy.delays()
        self._delay = next(self._delays, None)  # before the try after this one; None when this is the last
        self._before = ""  # how the try before this one ended

    @property
    def _recording(self) -> Recording:
        """Of this try; made when its turn comes: of ten thousand hosts most wait for theirs."""
        if self._taken is None:
            self._taken = self._terms.recorder.record(self._claim, self._terms.secrets(self._host), self._kind)
        return self._taken

    async def run(self) -> Outcome | None:
        """The outcome; None when somebody else has taken the row, and its end is theirs to record."""
        try:
            while True:
                outcome = await (self._try() if self._claim.offsets is None else self._take_up())
                if outcome is None or self._is_last(outcome):
                    break
                if not await self._queue_again(outcome):
                    return None
                await self._terms.brake.unless(asyncio.sleep(self._delay or 0))
                self._delay = next(self._delays, None)
        except asyncio.CancelledError:
            await _to_its_end(self._finish(Outcome(state=ExecutionState.CANCELED, error=f"canceled{self._before}")))
            raise
        else:
            if outcome is not None:
                outcome = self._recording.masked(outcome)
                await _to_its_end(self._finish(outcome))
            return outcome
        finally:
            self._place.give()  # not sooner: the database counts the command until its end is written there

    def _is_last(self, outcome: Outcome) -> bool:
        return self._delay is None or outcome.state not in _TRIED_AGAIN or self._terms.brake.reason is not None

    async def _try(self) -> Outcome | None:
        brake = self._terms.brake
        while True:
            if not self._place.is_free:  # which it is nearly always, and waiting costs two tasks
                await brake.unless(self._place.wait())
            async with self._terms.slots:
                if brake.reason is None and not self._place.take():
                    continue
                try:
                    outcome = await self._carry_out()
                except TransitionError:
                    outcome = None
                except NeverStartedError:
                    if not await self._queue_again(_NEVER_STARTED):
                        return None
                    continue
                if outcome is not None:
                    if self._is_last(outcome):
                        brake.count(outcome.state)  # before the slot is free for the next one
                    return outcome
            if not await asyncio.to_thread(self._terms.store.is_ours, self._claim):
                return None
            self._place.refuse()
            self._taken = None

    async def _take_up(self) -> Outcome | None:
        """Follow what somebody else had started; what has never started gets its turn now."""
        terms, claim = self._terms, self._claim
        if self._host is None:
            return Outcome(state=ExecutionState.LOST, error="its worker died, and the target does not name it any more")
        try:
            async with asyncio.timeout_at(terms.brake.ends_at):
                outcome = await take_up(self._executor, claim.attempt, self._host, terms.command, claim.offsets or {}, self._recording)
        except TimeoutError:
            outcome = Outcome(state=ExecutionState.TIMED_OUT, error=f"timed out at {terms.brake.deadline}")
        if outcome is None:
            return await self._try() if await self._queue_again(_NEVER_STARTED) else None
        if self._is_last(outcome):
            terms.brake.count(outcome.state)
        return outcome

    async def _carry_out(self) -> Outcome:
        terms, claim = self._terms, self._claim
        if self._host is None:
            return Outcome(state=ExecutionState.UNREACHABLE, error="the target does not name it any more")
        report = _Start(self._recording, terms.brake)
        try:
            terms.brake.check()
            async with asyncio.timeout_at(terms.brake.ends_at):
                return await carry_out(
                    self._executor,
                    claim.attempt,
                    self._host,
                    terms.command,
                    report,
                    connect_timeout=terms.connect_timeout,
                    is_default=terms.connect_timeout_is_default,
                )
        except HeldError as error:
            return self._held(str(error))
        except TimeoutError:
            if report.has_started:
                return Outcome(state=ExecutionState.TIMED_OUT, error=f"timed out at {terms.brake.deadline}")
            return self._held(f"{terms.brake.deadline} has passed")

    def _held(self, reason: str) -> Outcome:
        what = "not tried again" if self._before else "not started"
        return Outcome(state=ExecutionState.CANCELED, error=f"{what}: {reason}{self._before}")

    async def _queue_again(self, outcome: Outcome) -> bool:
        """Record the end of this try, and open the next one; False when somebody else has taken the row."""
        end = self._recording.ended(outcome)
        following = await asyncio.to_thread(self._terms.store.try_again, end, self._terms.owner)
        self._place.give()
        await self._let_go(outcome, recorded=following is not None)
        if following is None:
            return False
        what = f"exit code {outcome.exit_code}" if outcome.error is None else outcome.error
        self._before = f" (try {self._claim.attempt.number}: {outcome.state}, {what})"
        self._claim, self._taken = following, None
        return True

    async def _finish(self, outcome: Outcome) -> None:
        recorded = await self._recording.finish(outcome)
        await self._let_go(outcome, recorded=recorded)
        if recorded:
            self._terms.on_end(self._claim.host, outcome, self._recording)

    @property
    def would_be_lost(self) -> bool:
        """Whether it has started, and nobody could ask about it without us."""
        return self._recording.has_started and not self._outlives(self._executor)

    def _outlives(self, executor: Executor) -> TypeGuard[Recoverable]:
        return isinstance(executor, Recoverable) and executor.outlives(self._terms.command)

    async def _let_go(self, outcome: Outcome, *, recorded: bool) -> None:
        """The host of a durable run may forget it once all of it is committed; else it keeps it for whoever has the row now."""
        if self._host is None or not self._outlives(self._executor):
            return
        if not self._recording.has_started or outcome.state is ExecutionState.LOST:
            return  # the host knows nothing of it, or may still have something to tell
        if recorded:
            await self._executor.ack(self._claim.attempt, self._host)
        else:
            await self._executor.release(self._claim.attempt)


async def _to_its_end(writing: Coroutine[Any, Any, None]) -> None:
    """Write what has happened, whatever comes: a cancel goes through afterwards, else it would make a known end `lost`."""
    task = asyncio.ensure_future(writing)
    cancel = await outlast(task)
    task.result()
    if cancel is not None:
        raise cancel


class _Start:
    """The report of a run on its way to the recording: it looks at the brake once more, right before the start."""

    def __init__(self, recording: Recording, brake: Brake) -> None:
        self._recording = recording
        self._brake = brake
        self.has_started = False

    async def starting(self) -> None:
        self._brake.check()
        self.has_started = True
        await self._recording.starting()

    def output(self, stream: Stream, data: bytes) -> None:
        self._recording.output(stream, data)

    def left_out(self, stream: Stream, size: int) -> None:
        self._recording.left_out(stream, size)
