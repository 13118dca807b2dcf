"""Publishes a task's results where Prefect's users look for them."""

import asyncio
import json
import logging
from collections.abc import Sequence

from prefect.artifacts import MarkdownArtifact, TableArtifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

from flows import summary
from flows.markdown import literal
from models.records import Execution, Task
from models.states import ExecutionState
from models.store import Store

logger = logging.getLogger(__name__)


async def publish(store: Store, task: Task, executions: Sequence[Execution], hub_url: str | None) -> None:
    """Create the results table and the summary page of a task, with links to its page at this hub, where there is one.

    The store has the truth: a failure here is only logged.
    """
    try:
        await asyncio.gather(*(artifact.acreate() for artifact in _draw(task, executions, hub_url)))
        if task.counts[ExecutionState.LOST] and (await asyncio.to_thread(store.task, task.id)).counts != task.counts:
            async with get_client() as client:  # whoever was told of the late end may have found nothing to renew
                await renew(client, store, task.id, hub_url)
    except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from taking a page, the task's end stands
        logger.warning("the artifacts of task %d could not be published: %s", task.id, error)


async def renew(client: PrefectClient, store: Store, task_id: int, hub_url: str | None) -> None:
    """Have the artifacts of a task show what is known now that hosts have told their ends late."""
    task = await asyncio.to_thread(store.task, task_id)
    if task.flow_run_id is None:
        return
    drawn = {artifact.key: artifact for artifact in _draw(task, await asyncio.to_thread(store.executions, task_id), hub_url, late=True)}
    of_run = ArtifactFilterFlowRunId(any_=[task.flow_run_id])
    named = ArtifactFilterKey(any_=[key for key in drawn if key is not None])
    for old in await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run, key=named)):
        new = drawn[old.key]
        await client.update_artifact(old.id, ArtifactUpdate(data=await new.aformat(), description=new.description))


def _draw(
    task: Task, executions: Sequence[Execution], hub_url: str | None, *, late: bool = False
) -> tuple[TableArtifact, MarkdownArtifact]:
    page = summary.link(task, hub_url)
    return (
        TableArtifact(
            key="fleetflow-results",
            table=_bounded(summary.rows(executions)),
            description=f"{page}: {summary.sentence(task, executions)}",
        ),
        MarkdownArtifact(
            key="fleetflow-summary",
            markdown=summary.page(task, executions, hub_url, late=late),
            description=f"{page}: {literal(task.name)}",
        ),
    )


def _bounded(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    size = 0
    for count, row in enumerate(rows):
        size += len(json.dumps(row)) + 2
        if size > summary.TABLE_BYTES:
            left: dict[str, object] = {
                "host": f"… and {len(rows) - count} more hosts",
                "state": None,
                "exit code": None,
                "seconds": None,
                "error": None,
            }
            return [*rows[:count], left]
    return rows
