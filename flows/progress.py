"""Shows in Prefect how far a task has come, while it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from flows import summary
from flows.context import Context
from flows.markdown import literal
from models.records import Task

logger = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between updates; a task that ends sooner has no need of it
_FAREWELL = 3.0  # seconds for the last update: a server that is away must not hold up the task's end


@asynccontextmanager
async def shown(context: Context, task: Task) -> AsyncIterator[None]:
    """Keep a progress artifact up to date until this is left; whatever goes wrong with it, the task goes on."""
    over = asyncio.Event()
    showing = asyncio.create_task(_show(context, task, over))
    try:
        yield
    finally:
        over.set()
        _, late = await asyncio.wait([showing], timeout=_FAREWELL)
        for left in late:
            left.cancel()


async def _show(context: Context, task: Task, over: asyncio.Event) -> None:
    if await _is_over(over):
        return
    try:
        shown = await _done(context, task)
        artifact = await acreate_progress_artifact(
            progress=shown,
            key="fleetflow-progress",
            description=f"{summary.link(task, context.settings.hub_url)}: {literal(task.name)}",
        )
        while not await _is_over(over):
            done = await _done(context, task)
            if done != shown:
                await aupdate_progress_artifact(artifact, progress=done)
                shown = done
        await aupdate_progress_artifact(artifact, progress=100.0)
    except Exception as error:  # noqa: BLE001 - as said, the task goes on
        logger.warning("the progress of task %d could not be shown: %s", task.id, error)


async def _is_over(over: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), _EVERY)
    return over.is_set()


async def _done(context: Context, task: Task) -> float:
    """Per cent of the hosts that have ended."""
    now = await asyncio.to_thread(context.store.task, task.id)
    return round(100 * now.done / now.hosts, 1)
