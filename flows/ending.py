"""Ends flow runs that nobody runs any more, so that nothing shows Running for ever."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Scheduled

from flows.patience import patiently
from models.owner import Owner

log = logging.getLogger(__name__)

_PAGE = 200  # flow runs a request; the server gives no more
_CLAIM = "Taken by worker "
STOPPED = "The worker that ran this flow run stopped before its end"


def claim_message(owner: Owner) -> str:
    """The message of the Pending state by which a worker claims a run."""
    return f"{_CLAIM}{owner}"


async def end_run(client: PrefectClient, flow_run_id: UUID, state: State) -> State:
    """Give a run its end `state`, unless it has a final one; what somebody asked to cancel ends Cancelled. Returns its state."""
    try:
        for force in (False, False, True):  # the state may change between our reading and our writing
            current = (await patiently(lambda: client.read_flow_run(flow_run_id))).state
            if current is None or current.is_final():
                return current or state
            if current.is_cancelling() and not state.is_cancelled():
                state = Cancelled(message="canceled")
            answer = await patiently(partial(client.set_flow_run_state, flow_run_id, state, force=force))
            if answer.status == SetStateStatus.ACCEPT:
                break
    except ObjectNotFound:
        log.info("flow run %s was deleted", flow_run_id)
    return state


async def read_run(client: PrefectClient, flow_run_id: UUID) -> FlowRun | None:
    """A flow run; None when it was deleted."""
    try:
        return await patiently(lambda: client.read_flow_run(flow_run_id))
    except ObjectNotFound:
        return None


async def reschedule(client: PrefectClient, run: FlowRun) -> None:
    """Let the next worker take a run whose worker is dead."""
    await patiently(partial(client.set_flow_run_state, run.id, Scheduled(message=STOPPED), force=True))


async def end_orphans(
    client: PrefectClient, work_pool: str, is_orphan: Callable[[FlowRun], bool], end_of: Callable[[FlowRun], Awaitable[State]]
) -> None:
    """End what dead workers left in the pool; what they had claimed and never begun is scheduled again."""
    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
    for run in [run async for run in _runs(client, work_pool, types) if is_orphan(run)]:
        log.info("ending flow run %s (%s), left %s by a dead worker", run.id, run.name, run.state_name)
        if run.state_type == StateType.PENDING and run.start_time is None:
            await reschedule(client, run)
        else:
            await end_run(client, run.id, await end_of(run))


async def end_cancelling(client: PrefectClient, work_pool: str, is_nobodys: Callable[[FlowRun], bool]) -> None:
    """End runs that somebody wants cancelled and that nobody runs."""
    for run in [run async for run in _runs(client, work_pool, [StateType.CANCELLING]) if is_nobodys(run)]:
        await end_run(client, run.id, Cancelled(message="canceled; nobody was running it"))


def stamp(run: FlowRun) -> str:
    """The worker that has taken a run, as far as the run says so."""
    if run.state is not None and run.state.is_pending():  # not stamped yet, or with the stamp of its last time
        return (run.state.message or "").removeprefix(_CLAIM)
    return run.infrastructure_pid or ""


async def _runs(client: PrefectClient, work_pool: str, types: list[StateType]) -> AsyncIterator[FlowRun]:
    offset = 0
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool])),
            sort=FlowRunSort.ID_DESC,
            limit=_PAGE,
            offset=offset,
        )
        for run in page:
            if run.state is not None and not run.state.state_details.pause_reschedule:  # suspended: it waits for no process
                yield run
        if len(page) < _PAGE:
            return
        offset += _PAGE
