"""The flow `reap-lost`: ends what dead workers left, for a schedule and for people who do not want to wait for it."""

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.context import current
from flows.nowhere import NOWHERE
from flows.reaper import Reaper


@flow(name="reap-lost", retries=0, persist_result=False, result_storage=NOWHERE, log_prints=False)
async def reap_lost() -> State[None]:
    """End what dead workers left: executions, tasks and flow runs, so that nothing shows Running for ever."""
    context = current()
    settings = context.settings
    async with get_client() as client:
        dead = await Reaper(client, context.store, context.owner, settings.home, settings.work_pool).reap(thoroughly=True)
    for owner in dead:
        get_run_logger().warning("ended what worker %s left", owner)
    return Completed(message=f"ended what {len(dead)} dead workers left" if dead else "nobody has died")
