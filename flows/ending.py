"""Ends flow runs that nobody runs any more, so that nothing shows Running for ever."""

import logging
from collections.abc import AsyncIterator, Container
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
from prefect.states import Cancelled, Crashed, Scheduled

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


async def end_orphans(client: PrefectClient, owner: Owner, work_pool: str) -> list[UUID]:
    """End what earlier incarnations of this home left in the pool; what they had claimed and never begun is scheduled again."""
    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
    orphans = [run async for run in _runs_of_home(client, owner, work_pool, types)]
    for run in orphans:
        log.info("ending flow run %s (%s), left %s by an earlier worker", run.id, run.name, run.state_name)
        if run.state_type == StateType.PENDING and run.start_time is None:
            await patiently(partial(client.set_flow_run_state, run.id, Scheduled(message=STOPPED), force=True))
        else:
            await end_run(client, run.id, Crashed(message=STOPPED))
    return [run.id for run in orphans]


async def end_cancelling(client: PrefectClient, owner: Owner, work_pool: str, running: Container[UUID]) -> None:
    """End runs of this home that somebody wants cancelled and that nobody runs, such as one that waits for a retry."""
    async for run in _runs_of_home(client, owner, work_pool, [StateType.CANCELLING]):
        if run.id not in running:
            await end_run(client, run.id, Cancelled(message="canceled; nobody was running it"))


async def _runs_of_home(client: PrefectClient, owner: Owner, work_pool: str, types: list[StateType]) -> AsyncIterator[FlowRun]:
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
            if _is_of_home(run, owner):
                yield run
        if len(page) < _PAGE:
            return
        offset += _PAGE


def _is_of_home(run: FlowRun, owner: Owner) -> bool:
    if run.state is None or run.state.state_details.pause_reschedule:  # suspended: it waits for no process
        return False
    if run.state.is_pending():  # not stamped yet, or with the stamp of its last time
        return owner.same_home((run.state.message or "").removeprefix(_CLAIM))
    return owner.same_home(run.infrastructure_pid or "")
