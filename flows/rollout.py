"""Takes a task over its hosts: wave after wave, at most `forks` of them at a time, and no further than its policy allows."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol

from flows import masks
from flows.brake import Brake
from flows.context import Context
from flows.hostrun import HostRun, OnEnd, Terms
from flows.request import Request
from models.records import Claim, Outcome
from models.states import ExecutionState


class Rollout:
    """One task on its way over the hosts. `outcomes` grows as they end."""

    def __init__(self, context: Context, request: Request, brake: Brake, *, on_end: OnEnd) -> None:
        self._context = context
        self._hosts = {host.name: host for host in request.hosts}
        self.policy = request.policy
        self.brake = brake
        self.outcomes: dict[str, Outcome] = {}
        self._under_way: set[HostRun] = set()
        self._terms = Terms(
            command=request.command,
            policy=request.policy,
            connect_timeout=request.connect_timeout,
            connect_timeout_is_default=request.connect_timeout_is_default,
            owner=str(context.owner),
            store=context.store,
            recorder=context.recorder,
            executors=context.executors,
            secrets=partial(masks.values, context.settings, request.command),
            slots=asyncio.Semaphore(request.policy.forks),
            brake=brake,
            on_end=on_end,
        )

    async def run(self, claim: Claim) -> None:
        """Run one host to its recorded end. A cancel ends the command on the host, is recorded, and goes through."""
        run = HostRun(self._terms, claim, self._hosts.get(claim.host), self._context.places.on(claim.host))
        self._under_way.add(run)
        try:
            outcome = await run.run()
        except asyncio.CancelledError:
            self.outcomes[claim.host] = Outcome(state=ExecutionState.CANCELED, error="canceled")
            raise
        finally:
            self._under_way.discard(run)
        if outcome is not None:
            self.outcomes[claim.host] = outcome

    @property
    def outlives_us(self) -> bool:
        """Whether another worker could follow all that runs now to its end. Any thread."""
        return not any(run.would_be_lost for run in list(self._under_way))


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """The moment before a wave that is not the first one: what there is to decide upon."""

    task_id: int
    wave: int  # the one that comes, from 2 on
    waves: int
    hosts: tuple[str, ...]  # of the wave that comes
    outcomes: Mapping[str, Outcome]  # of the hosts that had their turn in this run


class BetweenWaves(Protocol):
    """Is asked before every wave but the first. It may take its time; the task's deadline cancels it."""

    async def __call__(self, interval: Interval) -> str | None:
        """Return None to go on, or the reason why no further host is to be started."""
        ...


RunWave = Callable[[Rollout, Sequence[Claim], int], Awaitable[None]]


async def roll_out(rollout: Rollout, claims: Sequence[Claim], run_wave: RunWave, between_waves: BetweenWaves | None = None) -> None:
    """Run the claims wave after wave; `run_wave` is given those of one wave, and the number of all of them.

    Returns when every host has ended that was started. Those of waves that the brake has kept from starting are not touched.
    """
    waves = [tuple(wave) for _, wave in groupby(claims, lambda claim: claim.wave)]
    with rollout.brake.watching():
        for wave in waves:
            if wave[0].wave > 1:
                await _pause(rollout, wave, waves[-1][0].wave, between_waves)
            if rollout.brake.reason is not None:
                return
            await run_wave(rollout, wave, len(claims))


async def _pause(rollout: Rollout, wave: Sequence[Claim], waves: int, between_waves: BetweenWaves | None) -> None:
    await rollout.brake.unless(asyncio.sleep(rollout.policy.wave_pause))
    if between_waves is None or rollout.brake.reason is not None:
        return
    interval = Interval(
        task_id=wave[0].task_id,
        wave=wave[0].wave,
        waves=waves,
        hosts=tuple(claim.host for claim in wave),
        outcomes=dict(rollout.outcomes),
    )
    refusal = await rollout.brake.unless(between_waves(interval))
    if refusal is not None:
        rollout.brake.stop(refusal)
