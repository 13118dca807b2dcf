"""Deadlines and outcomes, with an executor and a report of four lines each."""

import asyncio
import uuid
from dataclasses import dataclass

import pytest

from executors.attempt import carry_out
from executors.protocol import Sink
from models.errors import ConnectionLostError, EndNotConfirmedError, TransitionError, UnreachableError, UsageError
from models.records import Outcome
from models.states import ExecutionState
from models.values import Attempt, Command, Host, Result, Stream

S = ExecutionState
FINE = Result(exit_code=0)


@dataclass
class Plan:
    """An executor that takes its time before and after the start, and then returns or raises."""

    before: float = 0
    after: float = 0
    end: Result | Exception = FINE
    on_cancel: Exception | None = None
    allowed: float | None = None

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result:
        sink.step("waiting for its banner")
        if self.allowed is not None:
            sink.allow(self.allowed)
        await asyncio.sleep(self.before)
        if isinstance(self.end, UnreachableError | UsageError):
            raise self.end
        await sink.starting()
        sink.output(Stream.STDOUT, b"hi")
        try:
            await asyncio.sleep(self.after)
        except asyncio.CancelledError:
            if self.on_cancel:
                raise self.on_cancel from None
            raise
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    async def aclose(self) -> None: ...


@dataclass
class Kept:
    """A report that takes everything, unless somebody else owns the row."""

    taken: bool = False
    printed: bytes = b""

    async def starting(self) -> None:
        if self.taken:
            raise TransitionError("queued", "running")

    def output(self, stream: Stream, data: bytes) -> None:
        self.printed += data


async def _outcome(plan: Plan, limit: float | None = None, report: Kept | None = None, *, is_default: bool = False) -> Outcome:
    command = Command(script="true", timeout=limit)
    attempt = Attempt(id=uuid.uuid4())
    return await carry_out(plan, attempt, Host(name="web1"), command, report or Kept(), connect_timeout=0.2, is_default=is_default)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(), Outcome(state=S.SUCCEEDED, exit_code=0)),
        (Plan(end=Result(exit_code=3)), Outcome(state=S.FAILED, exit_code=3)),
        (Plan(end=UnreachableError("web1", "refused")), Outcome(state=S.UNREACHABLE, error="refused")),
        (Plan(end=UsageError("a bad name")), Outcome(state=S.UNREACHABLE, error="a bad name")),
        (Plan(end=ConnectionLostError("web1", "cut")), Outcome(state=S.LOST, error="cut")),
        (Plan(before=5), Outcome(state=S.UNREACHABLE, error="no answer within 0.2 s (waiting for its banner)")),
    ],
)
async def test_each_end_is_one_outcome(plan: Plan, expected: Outcome) -> None:
    assert await _outcome(plan) == expected


async def test_a_command_may_take_longer_than_its_connection() -> None:
    assert await _outcome(Plan(after=0.4)) == Outcome(state=S.SUCCEEDED, exit_code=0)


async def test_a_timeout_after_the_start_is_timed_out_and_keeps_output() -> None:
    report = Kept()
    assert await _outcome(Plan(after=5), 0.3, report) == Outcome(state=S.TIMED_OUT, error="timed out after 0.3 s")
    assert report.printed == b"hi"


async def test_a_timeout_whose_end_is_not_confirmed_is_lost() -> None:
    plan = Plan(after=5, on_cancel=EndNotConfirmedError("web1", "no word"))
    assert await _outcome(plan, 0.3) == Outcome(state=S.LOST, error="no word")


async def test_a_short_timeout_holds_before_the_start_too() -> None:
    assert (await _outcome(Plan(before=5), 0.1)).state is S.UNREACHABLE


async def test_what_the_host_allows_comes_in_the_place_of_the_default_alone() -> None:
    late = Outcome(state=S.UNREACHABLE, error="no answer within 0.2 s (waiting for its banner)")
    assert (await _outcome(Plan(before=0.3, allowed=5), is_default=True)).state is S.SUCCEEDED
    assert await _outcome(Plan(before=0.3, allowed=5)) == late
    shorter = await _outcome(Plan(before=0.3, allowed=0.1), is_default=True)
    assert shorter == Outcome(state=S.UNREACHABLE, error="no answer within 0.1 s (waiting for its banner)")
    assert (await _outcome(Plan(before=5, allowed=5), 0.1, is_default=True)).state is S.UNREACHABLE


async def test_a_cancel_from_outside_goes_through() -> None:
    running = asyncio.ensure_future(_outcome(Plan(after=5)))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_execution_that_somebody_else_owns_is_not_run() -> None:
    with pytest.raises(TransitionError):
        await _outcome(Plan(), report=Kept(taken=True))


async def test_a_broken_executor_never_passes_for_a_result(caplog: pytest.LogCaptureFixture) -> None:
    outcome = await _outcome(Plan(end=ZeroDivisionError("oops")))
    assert outcome.state is S.LOST
    assert "oops" in (outcome.error or "")
    assert "broke the executor" in caplog.text
