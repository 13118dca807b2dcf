"""Follows the flow runs of this worker: takes them, cancels them when people want it, and drains them before the worker stops."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.states import Crashed

from flows.ending import STOPPED, end_run
from flows.engine import Engine
from flows.reaper import Reaper
from models.errors import FleetflowError, LeaseLostError
from models.owner import Owner
from models.values import OnDisconnect

if TYPE_CHECKING:  # SQLAlchemy, for which every prefect command would pay
    from flows.context import UnderWay
    from models.store import Store

log = logging.getLogger(__name__)

POLL = 0.5  # seconds between looks at the states of runs under way
_SWEEP = 5.0  # seconds between looks for runs to cancel that nobody runs
_REQUESTS_POLL = 0.25  # seconds between looks for cancels in the store: a worker obeys within a second
DRAIN_LIMIT = 10.0  # seconds that cancelled runs then have to end their commands
_LAST_WORD = 3.0  # seconds to tell Prefect about runs that did not end even so
_UNWANTED = [StateType.CANCELLING, *TERMINAL_STATES]

_PREFECT = "Prefect"

OnEnd = Callable[[UUID, State], Awaitable[None]]


class Steering:
    """The runs under way in one engine."""

    def __init__(
        self,
        client: PrefectClient,
        engine: Engine,
        store: "Store",
        owner: Owner,
        reaper: Reaper,
        rollouts: Mapping[int, "UnderWay"],
        *,
        on_end: OnEnd,
        on_free: Callable[[], None],
    ) -> None:
        self._client = client
        self._engine = engine
        self._store = store
        self._owner = owner
        self._reaper = reaper
        self._rollouts = rollouts
        self._on_end = on_end
        self._on_free = on_free
        self._unwanted: set[UUID] = set()  # those of which the store has been told
        self._left: set[UUID] = set()  # to the next worker
        self._runs: dict[UUID, asyncio.Task[None]] = {}
        self._flow_runs: dict[UUID, FlowRun] = {}

    def __contains__(self, flow_run_id: UUID) -> bool:
        return flow_run_id in self._runs

    @property
    def under_way(self) -> list[FlowRun]:
        return list(self._flow_runs.values())

    def take(self, flow_run: FlowRun) -> None:
        """Have the engine run a flow run, and follow it to its end."""
        self._flow_runs[flow_run.id] = flow_run
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
        except LeaseLostError:
            log.warning("flow run %s is not ours any more", flow_run.id)
        except Exception:
            log.exception("flow run %s could not be followed", flow_run.id)
        finally:
            del self._runs[flow_run.id], self._flow_runs[flow_run.id]
            self._unwanted.discard(flow_run.id)  # it may be retried, and cancelled once more
            self._on_free()

    async def watch_cancels(self) -> None:
        """Cancel runs for ever, as people ask; whatever the server answers, or does not, the next look comes."""
        swept = 0.0
        while True:
            try:
                await self._cancel_unwanted()
                if time.monotonic() - swept > _SWEEP:
                    await self._reaper.end_cancelling(list(self._runs))
                    swept = time.monotonic()
            except Exception as error:  # noqa: BLE001 - a look that failed must not be the last
                log.warning("cannot ask Prefect which runs are to be cancelled: %r", error)
            await asyncio.sleep(POLL)

    async def obey_requests(self) -> None:
        """Cancel runs for ever, as the store says: all ways to cancel lead there, and it answers while Prefect does not."""
        while True:
            try:
                if self._runs:
                    for task in await asyncio.to_thread(self._store.cancels, str(self._owner)):
                        if task.flow_run_id is not None:
                            self._engine.cancel(task.flow_run_id, _reason(task.cancel_requested_by))
            except Exception as error:  # noqa: BLE001 - a look that failed must not be the last
                log.warning("cannot ask the store which tasks are to be canceled: %r", error)
            await asyncio.sleep(_REQUESTS_POLL)

    async def _cancel(self, flow_run_id: UUID, by: str, reason: str) -> None:
        """Note in the store who wants a run canceled, so that it holds whatever becomes of us; then do it."""
        try:
            await asyncio.to_thread(self._store.request_cancel, flow_run_id, by)
        except FleetflowError as error:
            log.warning("cannot note that flow run %s is to be canceled: %s", flow_run_id, error)
        self._engine.cancel(flow_run_id, reason)

    async def _cancel_unwanted(self) -> None:
        if not self._runs:
            return
        unwanted = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=list(self._runs)), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNWANTED))
            )
        )
        for run in unwanted:
            if run.id not in self._unwanted:
                self._unwanted.add(run.id)
                await self._cancel(run.id, _PREFECT, _reason(_PREFECT))

    async def drain(self, grace: float, *, keep: bool) -> None:
        """Let runs end by themselves for `grace` seconds, stop the rest, and give an end to those that do not heed it.

        `keep` leaves those to the next worker of which it can follow all that runs.
        """
        if not await self._ended_within(grace):
            log.info("stopping %d flow runs, because the worker stops", len(self._runs))
            await asyncio.gather(*(self._stop(flow_run_id, keep=keep) for flow_run_id in list(self._runs)))
        if not await self._ended_within(DRAIN_LIMIT):
            await self._give_up()

    async def _stop(self, flow_run_id: UUID, *, keep: bool) -> None:
        """What becomes of a run that outlives the grace of a worker that stops. The one place that decides it."""
        task = await asyncio.to_thread(self._store.task_of_flow_run, flow_run_id)
        if task is not None and (keep or task.command.on_disconnect is OnDisconnect.DETACH) and self._can_go_on(task.id):
            log.info("flow run %s goes on in the next worker: its commands run on without us", flow_run_id)
            self._left.add(flow_run_id)
            return
        await self._cancel(flow_run_id, "the stop of its worker", "canceled, because the worker was stopped")

    def _can_go_on(self, task_id: int) -> bool:
        rollout = self._rollouts.get(task_id)
        return rollout is None or rollout.outlives_us  # without one nothing runs yet

    async def abandon(self) -> None:
        """End the commands of all runs, and tell nobody: others have ended these runs for us, or follow their durable commands."""
        for flow_run_id in list(self._runs):
            task = await asyncio.to_thread(self._store.task_of_flow_run, flow_run_id)
            if task is not None and task.command.on_disconnect is not OnDisconnect.END:
                self._left.add(flow_run_id)
                continue
            self._engine.cancel(flow_run_id, "its worker was taken for dead")
        await self._ended_within(DRAIN_LIMIT)

    async def _ended_within(self, seconds: float) -> bool:
        if staying := [run for flow_run_id, run in self._runs.items() if flow_run_id not in self._left]:
            await asyncio.wait(staying, timeout=seconds)
        return self._runs.keys() <= self._left

    async def _give_up(self) -> None:
        stuck = [flow_run_id for flow_run_id in self._runs if flow_run_id not in self._left]
        log.error("%d flow runs did not end when they were cancelled", len(stuck))
        ends = [asyncio.create_task(end_run(self._client, flow_run_id, Crashed(message=STOPPED))) for flow_run_id in stuck]
        await asyncio.wait(ends, timeout=_LAST_WORD)


def _reason(by: str | None) -> str:
    return "canceled" if by in {None, _PREFECT} else f"canceled by {by}"
