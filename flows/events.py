"""Tells Prefect's events what happened to tasks, hosts and agents, so that automations can act on it; nothing here ever fails a task.

Resources are `fleetflow.task.NUMBER` and `fleetflow.host.NAME`, related to their flow run; `fleetflow.agent.NAME`, and `fleetflow.agents`
for many at once.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from prefect.events import Event, emit_event
from prefect.events.schemas.events import Resource

from models.news import News
from models.ranges import fold
from models.records import Outcome, Task
from models.states import ExecutionState, TaskState

logger = logging.getLogger(__name__)

MOST = 20  # events about hosts that one task sends; its last event has the numbers of all
MOST_AGENTS = 20  # that went or came together and have an event each; more have one
_NAMES = 10_000  # characters of names in an event,
_NAME = 200  # and in the name that it goes by


def task_ended(task: Task, sentence: str) -> None:
    """Send `fleetflow.task.finished` for a task that has ended in any way, and `fleetflow.task.failed` when it failed."""
    payload = {
        "task": task.id,
        "state": task.state.value,
        "sentence": sentence,
        "reason": task.reason,
        "target": task.target,
        "hosts": task.hosts,
        "counts": {state.value: number for state, number in task.counts.items()},
    }
    for event in ("finished", "failed") if task.state is TaskState.FAILED else ("finished",):
        _send(f"fleetflow.task.{event}", f"fleetflow.task.{task.id}", task.name, task.flow_run_id, payload)


def run_skipped(flow_run_id: UUID, name: str, reason: str) -> None:
    """Send `fleetflow.task.skipped` for a scheduled run that came too late to be of use; it has no task, and is the resource itself."""
    _send("fleetflow.task.skipped", f"prefect.flow-run.{flow_run_id}", name, flow_run_id, {"reason": reason})


class HostEvents:
    """Sends `fleetflow.host.unreachable` for the first hosts of a task that are."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sent = 0

    def host_ended(self, host: str, outcome: Outcome) -> None:
        if outcome.state is ExecutionState.UNREACHABLE and self._sent < MOST:
            self._sent += 1
            payload = {"task": self._task.id, "host": host, "reason": outcome.error}
            _send("fleetflow.host.unreachable", f"fleetflow.host.{host}", host, self._task.flow_run_id, payload)


def agents_turned(news: News) -> list[Event]:
    """`fleetflow.agent.offline` or `.online` for agents that went or came; the same news make the same events, by their ids."""
    if len(news.about) > MOST_AGENTS:
        return [_turned(news, "fleetflow.agents", news.about)]
    return [_turned(news, f"fleetflow.agent.{name}", [name]) for name in news.about]


def _turned(news: News, resource: str, names: Sequence[str]) -> Event:
    agents = fold(names)
    return Event(
        id=uuid5(news.uuid, resource),
        occurred=datetime.fromtimestamp(news.at, UTC),
        event=f"fleetflow.agent.{news.kind}",
        resource=Resource({"prefect.resource.id": resource, "prefect.resource.name": agents[:_NAME]}),
        payload={"agents": agents if len(agents) <= _NAMES else f"{agents[: _NAMES - 1]}…", "count": len(names)},
    )


def _send(event: str, resource: str, name: str, flow_run_id: UUID | None, payload: Mapping[str, Any]) -> None:
    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}
    try:
        emit_event(
            event,
            resource={"prefect.resource.id": resource, "prefect.resource.name": name},
            related=[run] if flow_run_id else [],
            payload=dict(payload),
        )
    except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from taking an event, the task goes on
        logger.warning("the event %s of %s could not be sent: %s", event, resource, error)
