"""Publishes a task's results where Prefect's users look for them."""

import json
import logging
from collections.abc import Sequence

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from flows import summary
from flows.markdown import literal
from models.records import Execution, Task

logger = logging.getLogger(__name__)


async def publish(task: Task, executions: Sequence[Execution], hub_url: str | None) -> None:
    """Create the results table and the summary page of a task, with links to its page at this hub, where there is one.

    The store has the truth: a failure here is only logged.
    """
    page = summary.link(task, hub_url)
    try:
        await acreate_table_artifact(
            key="fleetflow-results",
            table=_bounded(summary.rows(executions)),
            description=f"{page}: {summary.sentence(task, executions)}",
        )
        await acreate_markdown_artifact(
            key="fleetflow-summary", markdown=summary.page(task, executions, hub_url), description=f"{page}: {literal(task.name)}"
        )
    except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from taking a page, the task's end stands
        logger.warning("the artifacts of task %d could not be published: %s", task.id, error)


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
