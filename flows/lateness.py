"""Skips scheduled runs that are older than their period, so that a worker that was away does not run a night's work ten times."""

from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterExpectedStartTime
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

from flows import events
from flows.patience import patiently
from flows.waiting import schedule_of


async def skip_if_late() -> str | None:
    """Why the current run is to be skipped: the schedule that made it has made a newer one that is due, too. Sends an event then.

    A run that somebody retries is never late.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not run.auto_scheduled or run.run_count > 1 or run.expected_start_time is None:
        return None
    async with get_client() as client:
        newer = await patiently(lambda: _newest_due(client, run))
    if newer is None or newer.expected_start_time is None:
        return None
    reason = f"skipped: it was to start at {_clock(run.expected_start_time)}, and the run of {_clock(newer.expected_start_time)} is due"
    events.run_skipped(run.id, run.name, reason)
    return reason


async def _newest_due(client: PrefectClient, run: FlowRun) -> FlowRun | None:
    """The newest run of the same schedule that should have started after `run`."""
    since = FlowRunFilterExpectedStartTime(after_=run.expected_start_time, before_=datetime.now(UTC))
    deployment = FlowRunFilterDeploymentId(any_=[run.deployment_id] if run.deployment_id else [])
    due = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(deployment_id=deployment, expected_start_time=since),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=20,
    )
    return next((other for other in due if other.id != run.id and other.auto_scheduled and schedule_of(other) == schedule_of(run)), None)


def _clock(time: datetime) -> str:
    return time.isoformat(sep=" ", timespec="seconds")
