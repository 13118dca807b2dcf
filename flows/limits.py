"""Keeps the place that a flow run has under the concurrency limit of its deployment, for as long as it runs.

Prefect's engine does so in a thread and with a client for each run, and ends the run where it fails: a server that starts
again, and a run that pauses, lose their leases. A limit that is exceeded by a run or two is the smaller evil.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from httpx import HTTPStatusError
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State

from flows.patience import patiently

_LASTS = 300.0  # seconds
_EVERY = 100.0


def lease_of(run: FlowRun | None) -> UUID | None:
    """The lease by which a run has its place, if its deployment has a limit."""
    return run.state.state_details.deployment_concurrency_lease_id if run is not None and run.state is not None else None


def without_lease(state: State) -> State:
    """The state as it is where the deployment has no limit."""
    if state.state_details.deployment_concurrency_lease_id is None:
        return state
    return state.model_copy(update={"state_details": state.state_details.model_copy(update={"deployment_concurrency_lease_id": None})})


@asynccontextmanager
async def place_kept(client: PrefectClient, lease: UUID | None, *, every: float = _EVERY, lasts: float = _LASTS) -> AsyncIterator[None]:
    """Renew a lease until this is left, or until there is none any more."""
    renewing = asyncio.create_task(_renew(client, lease, every, lasts)) if lease is not None else None
    try:
        yield
    finally:
        if renewing is not None:
            renewing.cancel()


async def _renew(client: PrefectClient, lease: UUID, every: float, lasts: float) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            await patiently(lambda: client.renew_concurrency_lease(lease_id=lease, lease_duration=lasts))
        except HTTPStatusError:
            return
