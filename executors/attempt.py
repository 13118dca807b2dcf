"""Carries out one attempt under its deadlines, and says how it ended as one of the final states."""

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from executors.protocol import Executor, Recoverable, Report
from models.errors import FleetflowError, LostError, NeverStartedError, UnreachableError, UsageError
from models.records import Outcome
from models.states import ExecutionState
from models.values import Attempt, Command, EndedByHost, Host, Result, Stream

logger = logging.getLogger(__name__)


async def carry_out(
    executor: Executor, attempt: Attempt, host: Host, command: Command, report: Report, *, connect_timeout: float, is_default: bool = False
) -> Outcome:
    """Run an attempt to an outcome. Both deadlines count from this call; a cancel from outside goes through.

    Before the start the host has `connect_timeout` seconds (or the command's timeout, when that is shorter) and ends
    `unreachable`; after the start the command's timeout holds. If `is_default`, what the host's configuration says comes
    in the place of `connect_timeout`.
    """
    began = asyncio.get_running_loop().time()
    wait = _Wait(began, connect_timeout, command.timeout, is_default)
    try:
        async with asyncio.timeout_at(wait.until) as deadline:
            gate = _Gate(report, deadline, wait)
            return _ended(await executor.run(attempt, host, command, gate))
    except TimeoutError:
        if gate.open:
            return Outcome(state=ExecutionState.TIMED_OUT, error=f"timed out after {command.timeout:g} s")
        return Outcome(state=ExecutionState.UNREACHABLE, error=f"no answer within {wait.seconds:g} s{gate.waiting_for}")
    except UnreachableError as error:
        return Outcome(state=ExecutionState.UNREACHABLE, error=error.reason)
    except UsageError as error:  # what no shell can be given, found before anything was sent
        return Outcome(state=ExecutionState.UNREACHABLE, error=str(error))
    except LostError as error:
        return Outcome(state=ExecutionState.LOST, error=error.reason)
    except FleetflowError:
        raise
    except Exception as error:
        logger.exception("attempt %s on %r broke the executor", attempt.id, host.name)
        state = ExecutionState.LOST if gate.open else ExecutionState.UNREACHABLE
        return Outcome(state=state, error=f"internal error: {error!r}; the worker's log has the details")


async def take_up(
    executor: Executor, attempt: Attempt, host: Host, command: Command, offsets: Mapping[Stream, int], report: Report
) -> Outcome | None:
    """Follow an attempt that somebody else had started to its outcome; None when it has never started, and never will.

    Its timeout is applied by its host.
    """
    if not isinstance(executor, Recoverable):
        return Outcome(state=ExecutionState.LOST, error="its worker died")
    try:
        return _ended(
            await executor.recover(attempt, host, command, offsets, _Gate(report, None, _Wait(0, math.inf, None, is_default=False)))
        )
    except NeverStartedError:
        return None
    except (LostError, UnreachableError) as error:
        return Outcome(state=ExecutionState.LOST, error=error.reason)


def _ended(result: Result | EndedByHost) -> Outcome:
    if isinstance(result, EndedByHost):
        return Outcome(state=result.state, exit_code=result.exit_code, error=result.reason)
    if result.exit_code == 0:
        return Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)
    return Outcome(state=ExecutionState.FAILED, exit_code=result.exit_code)


@dataclass
class _Wait:
    """How long an attempt may take."""

    began: float
    connect_timeout: float
    limit: float | None  # of the command
    is_default: bool

    @property
    def seconds(self) -> float:
        """Until the start."""
        return min(self.connect_timeout, self.limit or self.connect_timeout)

    @property
    def until(self) -> float:
        return self.began + self.seconds

    @property
    def end(self) -> float | None:
        """Of the command."""
        return None if self.limit is None else self.began + self.limit


class _Gate:
    """The sink on its way through: from `starting` on, the deadline is the command's own."""

    def __init__(self, report: Report, deadline: asyncio.Timeout | None, wait: _Wait) -> None:
        self._report = report
        self._deadline = deadline
        self._wait = wait
        self._step = ""
        self.open = False

    @property
    def waiting_for(self) -> str:
        return f" ({self._step})" if self._step else ""

    def step(self, what: str) -> None:
        self._step = what

    def allow(self, seconds: float) -> None:
        if self._deadline is not None and self._wait.is_default and not self.open:
            self._wait.connect_timeout = seconds
            self._deadline.reschedule(self._wait.until)

    async def starting(self) -> None:
        self.open = True  # before the commit: if the deadline falls into it, the row may already say `running`
        if self._deadline is not None:
            self._deadline.reschedule(self._wait.end)
        await self._report.starting()

    def output(self, stream: Stream, data: bytes) -> None:
        self._report.output(stream, data)

    def left_out(self, stream: Stream, size: int) -> None:
        self._report.left_out(stream, size)
