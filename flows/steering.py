"""Follows the flow runs of this worker: takes them, cancels them when people want it, and drains them before the worker stops."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.states import Crashed

from flows.ending import STOPPED, end_cancelling, end_run
from flows.engine import Engine
from models.owner import Owner

log = logging.getLogger(__name__)

POLL = 0.5  # seconds between looks at the states of runs under way
_SWEEP = 5.0  # seconds between looks for runs to cancel that nobody runs
DRAIN_GRACE = 2.0  # seconds that runs have to end by themselves once the worker is told to stop
DRAIN_LIMIT = 10.0  # seconds that cancelled runs then have to end their commands
_LAST_WORD = 3.0  # seconds to tell Prefect about runs that did not end even so
_UNWANTED = [StateType.CANCELLING, *TERMINAL_STATES]

OnEnd = Callable[[UUID, State], Awaitable[None]]


class Steering:
    """The runs under way in one engine."""

    def __init__(self, client: PrefectClient, engine: Engine, owner: Owner, work_pool: str, on_end: OnEnd) -> None:
        self._client = client
        self._engine = engine
        self._owner = owner
        self._work_pool = work_pool
        self._on_end = on_end
        self._runs: dict[UUID, asyncio.Task[None]] = {}

    def __contains__(self, flow_run_id: UUID) -> bool:
        return flow_run_id in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    def take(self, flow_run: FlowRun) -> None:
        """Have the engine run a flow run, and follow it to its end."""
        self._runs[flow_run.id] = asyncio.create_task(self._follow(flow_run))

    async def wait(self) -> None:
        """Wait until no run is under way."""
        if self._runs:
            await asyncio.wait(self._runs.values())

    async def _follow(self, flow_run: FlowRun) -> None:
        try:
            state = await asyncio.wrap_future(self._engine.carry_out(flow_run))
            if state is not None and state.is_final():
                await self._on_end(flow_run.id, state)
        except Exception:
            log.exception("flow run %s could not be followed", flow_run.id)
        finally:
            del self._runs[flow_run.id]

    async def watch_cancels(self) -> None:
        """Cancel runs for ever, as people ask; whatever the server answers, or does not, the next look comes."""
        swept = 0.0
        while True:
            try:
                await self._cancel_unwanted()
                if time.monotonic() - swept > _SWEEP:
                    await end_cancelling(self._client, self._owner, self._work_pool, self._runs)
                    swept = time.monotonic()
            except Exception as error:  # noqa: BLE001 - a look that failed must not be the last
                log.warning("cannot ask Prefect which runs are to be cancelled: %r", error)
            await asyncio.sleep(POLL)

    async def _cancel_unwanted(self) -> None:
        if not self._runs:
            return
        unwanted = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=list(self._runs)), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNWANTED))
            )
        )
        for run in unwanted:
            self._engine.cancel(run.id, "canceled")

    async def drain(self) -> None:
        """Let runs end by themselves for a moment, cancel the rest, and give an end to those that do not heed it."""
        if not await self._ended_within(DRAIN_GRACE):
            log.info("cancelling %d flow runs, because the worker stops", len(self._runs))
            for flow_run_id in self._runs:
                self._engine.cancel(flow_run_id, "canceled, because the worker was stopped")
        if not await self._ended_within(DRAIN_LIMIT):
            await self._give_up()

    async def _ended_within(self, seconds: float) -> bool:
        if self._runs:
            await asyncio.wait(self._runs.values(), timeout=seconds)
        return not self._runs

    async def _give_up(self) -> None:
        log.error("%d flow runs did not end when they were cancelled", len(self._runs))
        ends = [asyncio.create_task(end_run(self._client, run, Crashed(message=STOPPED))) for run in self._runs]
        await asyncio.wait(ends, timeout=_LAST_WORD)
