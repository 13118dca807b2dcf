"""The executor for hosts with an agent: commands go through the database to a hub, and from there to the agent that holds its line open.

    queued ->       the agent takes it and checks all that can fail harmlessly       <- held, or refused
    starting is committed, then go ->                                               <- running, output, done
    acknowledge ->  the agent forgets it

So nothing has started that was not committed as started, and whatever comes before `go` is taken back without a doubt.
"""

import asyncio
from collections.abc import Mapping

from executors.agent.compose import Composer
from executors.agent.mailbox import Delivery, Mailbox
from executors.outlast import outlast
from executors.protocol import Sink
from models.access import Access
from models.deliveries import Acknowledge, Adopt, Body, Cancel, Go, Post, Status, Withdraw
from models.errors import (
    ConnectionLostError,
    EndNotConfirmedError,
    NeverStartedError,
    SecretError,
    SpoolLostError,
    UnreachableError,
)
from models.settings import Settings
from models.states import DeliveryState, ExecutionState
from models.values import Attempt, Command, EndedByHost, Host, Result, Stream

_CONFIRM_SECONDS = 4.0  # beyond the grace, for the agent to say that the command has ended, and what it printed last
_LOST = {
    "rebooted": "the host was rebooted while the command ran",
    "killed": "the wrapper and its supervisor were killed on the host",
    "gone": "the spool is gone from the host",
    "unknown": "the spool is gone: its agent does not know the command any more",
}
_ENDS = {
    "timed_out": EndedByHost(state=ExecutionState.TIMED_OUT, reason="timed out; the host ended it while nobody was attached"),
    "canceled": EndedByHost(state=ExecutionState.CANCELED, reason="canceled"),
}


class ByAgent:
    """Runs commands by agents. All runs of one instance share one event loop."""

    def __init__(self, settings: Settings, access: Access, owner: str) -> None:
        self._settings = settings
        self._mailbox = Mailbox(access, owner, settings.home, lost_after=settings.lost_after)
        self._composer = Composer(settings, self._mailbox.seal)

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result | EndedByHost:
        """Run the command to its end; see `Executor`."""
        body = self._compose(host, command)
        delivery = Delivery(attempt.id, sink.output, sink.left_out)
        self._mailbox.add(delivery)
        try:
            await self._prepare(delivery, host, body, sink)
            return await self._start(delivery, host)
        finally:
            self._mailbox.drop(delivery)

    def outlives(self, command: Command) -> bool:
        """All do: the agent needs nobody to run them to their end; see `Recoverable`."""
        del command
        return True

    async def recover(
        self, attempt: Attempt, host: Host, command: Command, offsets: Mapping[Stream, int], sink: Sink
    ) -> Result | EndedByHost:
        """Follow a run that may have started to its end; see `Recoverable`."""
        del command  # its agent has it
        delivery = Delivery(attempt.id, sink.output, sink.left_out)
        delivery.offsets.update(offsets)
        self._mailbox.add(delivery)
        try:
            return await self._take_up(delivery, host)
        finally:
            self._mailbox.drop(delivery)

    async def ack(self, attempt: Attempt, host: Host) -> None:
        """Let the agent forget a run; see `Recoverable`."""
        del host
        self._mailbox.send(Acknowledge(attempt.id))

    async def release(self, attempt: Attempt) -> None:
        """Nothing: whoever has the run now has taken it over in the database."""

    async def aclose(self) -> None:
        """Write what is still to be written. Runs still under way are not waited for."""
        await self._mailbox.aclose()

    def _compose(self, host: Host, command: Command) -> Body:
        try:
            return self._composer.compose(command)
        except SecretError as error:
            raise UnreachableError(host.name, str(error)) from error

    async def _prepare(self, delivery: Delivery, host: Host, body: Body, sink: Sink) -> None:
        """Have the agent hold the command, and commit its start; what goes wrong here has certainly not started."""
        sink.step("waiting for its agent")
        try:
            await self._hold(delivery, host, body)
            await sink.starting()
        except BaseException:
            self._mailbox.send(Withdraw(delivery.attempt))
            raise

    async def _hold(self, delivery: Delivery, host: Host, body: Body) -> None:
        name = host.address or host.name
        if not await self._mailbox.ask(Post(delivery.attempt, name, body, otherwise=host.name)):
            names = " or ".join(dict.fromkeys((name, host.name)))
            raise UnreachableError(host.name, f"no agent of the name {names} is approved; `fleetflow agent list` shows them all")
        while delivery.state is DeliveryState.QUEUED:
            await delivery.news.wait()
            delivery.news.clear()
        if delivery.status is not None and delivery.state is DeliveryState.REFUSED:
            raise UnreachableError(host.name, delivery.status.error or "its agent refused the command")

    async def _start(self, delivery: Delivery, host: Host) -> Result | EndedByHost:
        try:
            if not await self._mailbox.ask(Go(delivery.attempt)):
                self._mailbox.send(Withdraw(delivery.attempt))
                raise NeverStartedError(host.name, "its agent was restarted before it could start")
            return await self._follow(delivery, host)
        except asyncio.CancelledError:
            return await self._end(delivery, host)

    async def _take_up(self, delivery: Delivery, host: Host) -> Result | EndedByHost:
        try:
            if not await self._mailbox.ask(Adopt(delivery.attempt), delivery):
                raise SpoolLostError(host.name, "the spool is gone: its agent was told that the outcome is known")
            if await self._mailbox.ask(Withdraw(delivery.attempt)):
                raise NeverStartedError(host.name, "its worker died before it could start")
            return await self._follow(delivery, host)
        except asyncio.CancelledError:
            return await self._end(delivery, host)

    async def _follow(self, delivery: Delivery, host: Host) -> Result | EndedByHost:
        while True:
            await delivery.news.wait()
            delivery.news.clear()
            if delivery.state is DeliveryState.REFUSED:
                self._mailbox.send(Acknowledge(delivery.attempt))
                raise NeverStartedError(
                    host.name, delivery.status.error if delivery.status and delivery.status.error else "its agent refused it"
                )
            if delivery.state is DeliveryState.DONE and delivery.status is not None and delivery.is_complete:
                return _judge(delivery.status, host)
            if delivery.unseen is not None:
                raise ConnectionLostError(host.name, delivery.unseen)

    async def _end(self, delivery: Delivery, host: Host) -> Result | EndedByHost:
        """After a cancel: have the agent end the command, and see that it did. A second cancel does not make it faster."""
        ending = asyncio.ensure_future(self._confirm(delivery, host))
        await outlast(ending)
        return ending.result()

    async def _confirm(self, delivery: Delivery, host: Host) -> Result | EndedByHost:
        patience = self._settings.grace + _CONFIRM_SECONDS
        delivery.news.set()
        try:
            async with asyncio.timeout(patience):
                if await self._mailbox.ask(Withdraw(delivery.attempt)):
                    raise asyncio.CancelledError
                await self._mailbox.ask(Cancel(delivery.attempt))
                ended = await self._follow(delivery, host)
        except NeverStartedError:
            raise asyncio.CancelledError from None
        except TimeoutError:
            reason = f"its agent did not confirm within {patience:g} s that the command has ended"
            raise EndNotConfirmedError(host.name, reason) from None
        if isinstance(ended, EndedByHost) and ended.state is ExecutionState.CANCELED:
            raise asyncio.CancelledError
        return ended


def _judge(status: Status, host: Host) -> Result | EndedByHost:
    if status.ended in _ENDS:
        return _ENDS[status.ended]
    if status.ended is None and status.exit_code is not None:
        return Result(exit_code=status.exit_code)
    reason = _LOST.get(status.ended or "", f"its agent says {status.ended or status.error!r}")
    raise SpoolLostError(host.name, reason)
