"""Splits a task's hosts into Prefect task runs: one a host in small tasks, at most 32 in large ones."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows.rollout import Rollout
from models.records import Claim
from models.states import ExecutionState
from models.targets import fold

MOST = 32  # task runs of one flow run; each costs 3 to 5 ms


class Shard:
    """The claims that one Prefect task run takes. Not a dataclass: Prefect would walk through all its fields."""

    def __init__(self, rollout: Rollout, claims: Sequence[Claim]) -> None:
        self.rollout = rollout
        self.claims = claims
        self.runs: list[asyncio.Future[None]] = []
        self.is_canceled = False

    def cancel(self) -> None:
        """End its commands. Prefect's engine, which would call a task run Crashed, never hears of it."""
        self.is_canceled = True
        for run in self.runs:
            run.cancel()

    @property
    def name(self) -> str:
        if len(self.claims) == 1:
            return self.claims[0].host
        return f"{fold(claim.host for claim in self.claims)} ({len(self.claims)} hosts)"


def split(rollout: Rollout, claims: Sequence[Claim], total: int) -> list[Shard]:
    """Split the claims of a wave into shards of neighbours, so many that the waves of all `total` claims make about `MOST` together."""
    size = -(-total // MOST) or 1
    return [Shard(rollout, claims[start : start + size]) for start in range(0, len(claims), size)]


async def run_shards(rollout: Rollout, claims: Sequence[Claim], total: int) -> None:
    """Run the claims of a wave, out of `total`; returns when each has ended. A cancel, or an error of one, ends all, and goes through."""
    shards = split(rollout, claims, total)
    starts = [asyncio.ensure_future(_start(shard)) for shard in shards]
    try:
        if starts:
            await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for shard in shards:
            shard.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
    for start in starts:
        start.result()


async def _start(shard: Shard) -> None:
    state: State[Any] = await _run.with_options(task_run_name=_short(shard.name))(shard, return_state=True)  # type: ignore[misc]  # Prefect types this call as a sync task's
    if state.is_crashed():
        await state.aresult()  # raises what went wrong


@task(name="hosts", cache_policy=NO_CACHE, persist_result=False, log_prints=False)
async def _run(shard: Shard) -> State[None]:
    if shard.is_canceled:
        return Cancelled(message=_counts(shard))
    shard.runs = [asyncio.ensure_future(shard.rollout.run(claim)) for claim in shard.claims]
    await asyncio.wait(shard.runs)  # each ends its remote tree before it returns
    if any(run.cancelled() for run in shard.runs):
        return Cancelled(message=_counts(shard))
    for run in shard.runs:
        run.result()  # a database that failed us is not an outcome of a host
    return Completed(message=_counts(shard)) if _all_succeeded(shard) else Failed(message=_counts(shard))


def _all_succeeded(shard: Shard) -> bool:
    outcomes = shard.rollout.outcomes
    return all(claim.host in outcomes and outcomes[claim.host].state is ExecutionState.SUCCEEDED for claim in shard.claims)


def _counts(shard: Shard) -> str:
    outcomes = [shard.rollout.outcomes[claim.host] for claim in shard.claims if claim.host in shard.rollout.outcomes]
    if len(shard.claims) == 1 and outcomes and outcomes[0].error:
        return f"{outcomes[0].state}: {outcomes[0].error}"
    counts = Counter(outcome.state for outcome in outcomes)
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "not started"


def _short(name: str) -> str:
    return name if len(name) <= 120 else name[:119] + "…"
