"""What every executor does, and what it is given to report to."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from models.values import Attempt, Command, EndedByHost, Host, Result, Stream


class Report(Protocol):
    """Takes what happens to one attempt."""

    async def starting(self) -> None:
        """Commit the move `queued -> running`.

        Awaited once, after everything that can fail harmlessly and before the first byte that can start the command:
        so `queued` proves "never started". If it raises, the command must not be started.
        """
        ...

    def output(self, stream: Stream, data: bytes) -> None:
        """Take a chunk of output as it came, of any size; limits are kept behind this. Any thread; never blocks."""
        ...

    def left_out(self, stream: Stream, size: int) -> None:
        """So many bytes of a stream come next, but the host does not have them any more. Any thread; never blocks."""
        ...


class Sink(Report, Protocol):
    """What an executor is given: a report, and a place to say what it waits for."""

    def step(self, what: str) -> None:
        """Say what is being waited for, as in "waiting for its banner": it explains a deadline that passes before the start."""
        ...

    def allow(self, seconds: float) -> None:
        """Say how long the host's own configuration lets it take until the start, counted from the beginning of the attempt."""
        ...


class Executor(Protocol):
    """Runs one attempt of a command on one host."""

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result | EndedByHost:
        """Run the command to its end; a non-zero exit code is a `Result`.

        Raises `UnreachableError` (and its kinds) when the command has certainly not started, and `LostError` (and its
        kinds) when it may have started and its outcome is not known.

        Timeouts are applied outside, as a cancel. When the coroutine is cancelled before `sink.starting()` it gives up
        at once. Afterwards it ends the whole process tree on the host (TERM, grace, KILL) before it lets the cancel
        through; if the host does not confirm the end within grace + 2 s it raises `EndNotConfirmedError` instead. If the
        command has ended by itself in the meantime its `Result` is returned all the same.
        """
        ...

    async def aclose(self) -> None:
        """Let go of all connections. Runs still under way are not waited for."""
        ...


@runtime_checkable
class Recoverable(Protocol):
    """An executor whose runs outlive us: what their hosts know can be asked for later, by anybody who knows the attempt."""

    def outlives(self, command: Command) -> bool:
        """Whether the runs of this command do; all that follows is for those only."""
        ...

    async def recover(
        self, attempt: Attempt, host: Host, command: Command, offsets: Mapping[Stream, int], sink: Sink
    ) -> Result | EndedByHost:
        """Follow a run that may have started to its end, from these offsets of its streams; `sink.starting` is not called.

        Raises `NeverStartedError` when the host has proved that it did not start (it never will, then), `LostError` when the
        host does not know its end, and `UnreachableError` when the host cannot be asked now. A cancel is as for `run`.
        """
        ...

    async def ack(self, attempt: Attempt, host: Host) -> None:
        """All of a run is committed: the host may forget it. Best effort, and never raises."""
        ...

    async def release(self, attempt: Attempt) -> None:
        """Let go of a run that somebody else follows now. The host keeps what it knows for them."""
        ...
