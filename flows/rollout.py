"""Runs the claimed hosts of one task, at most `forks` at a time, and records how each ends."""

import asyncio
from collections.abc import Callable

from executors.attempt import carry_out
from flows.context import Context
from flows.request import Request
from models.errors import TransitionError
from models.recorder import Recording
from models.records import Claim, Outcome
from models.states import ExecutionState
from models.values import ExecutorKind

OnEnd = Callable[[str, Outcome, Recording], None]


class Rollout:
    """One task on its way over the hosts. `outcomes` grows as they end."""

    def __init__(self, context: Context, request: Request, *, on_end: OnEnd) -> None:
        self._context = context
        self._request = request
        self._hosts = {host.name: host for host in request.hosts}
        self._slots = asyncio.Semaphore(request.forks)
        self._on_end = on_end
        self.outcomes: dict[str, Outcome] = {}

    async def run(self, claim: Claim) -> None:
        """Run one host to its recorded end. A cancel ends the command on the host, is recorded, and goes through."""
        recording = self._context.recorder.record(claim)
        try:
            async with self._slots:
                outcome = await (self._carry_out(claim, recording) if claim.offsets is None else self._take_up(claim, recording))
        except asyncio.CancelledError:
            await self._finish(claim, recording, Outcome(state=ExecutionState.CANCELED, error="canceled"))
            raise
        except TransitionError:
            return  # somebody else has taken the row, and its end is theirs to record
        await self._finish(claim, recording, outcome)

    async def _carry_out(self, claim: Claim, recording: Recording) -> Outcome:
        host = self._hosts.get(claim.host)
        if host is None:
            return Outcome(state=ExecutionState.UNREACHABLE, error="the target does not name it any more")
        executor = self._context.executors[host.executor or ExecutorKind.SSH]
        wait = self._request.connect_timeout
        return await carry_out(executor, claim.attempt, host, self._request.command, recording, connect_timeout=wait)

    async def _finish(self, claim: Claim, recording: Recording, outcome: Outcome) -> None:
        self.outcomes[claim.host] = outcome
        if await recording.finish(outcome):
            self._on_end(claim.host, outcome, recording)
