"""Makes a flow run for each task that the REST API has created, and ends those whose flow run ended without them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from flows.patience import patiently
from models import bells
from models.tags import Tag

if TYPE_CHECKING:  # SQLAlchemy, for which every prefect command would pay
    from models.records import Task
    from models.requests import Requests

log = logging.getLogger(__name__)

_COMMAND, _SCRIPT = "run-command/fleet", "run-script/fleet"
_LOOK = 2.0  # seconds between looks that nobody rang for
_AHEAD = 20  # flow runs that are made and have not begun: thousands at once would keep Prefect's server busy with themselves


class Dispatcher:
    """Of one worker. Several may do the same at once: Prefect makes one flow run for a key."""

    def __init__(self, client: PrefectClient, requests: "Requests", home: Path, work_pool: str, on_new: Callable[[], None]) -> None:
        self._client = client
        self._requests = requests
        self._home = home
        self._work_pool = work_pool
        self._on_new = on_new
        self._rung = asyncio.Event()
        self._suspects: set[int] = set()

    async def work(self) -> None:
        """Look for ever: when somebody rings, when a run has begun, and from time to time."""
        with bells.answered(self._home, bells.Kind.DISPATCHER, self._rung.set):
            while True:
                await self._carefully()
                self._rung.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._rung.wait()

    def look(self) -> None:
        """Look soon: there may be room for another flow run."""
        self._rung.set()

    async def _carefully(self) -> None:
        try:
            await self._dispatch()
            await self._end_forgotten()
        except Exception as error:  # noqa: BLE001 - Prefect or the database is away: the next look may get through
            log.warning("cannot make flow runs of the tasks that were asked for: %r", error)

    async def _dispatch(self) -> None:
        tasks = await asyncio.to_thread(self._requests.waiting, _AHEAD)
        deployments = {name: await self._deployment(name) for name in {_name(task) for task in tasks}}
        for task in tasks:
            if deployment := deployments[_name(task)]:
                await self._start(task, deployment)
        if tasks:
            self._on_new()

    async def _start(self, task: "Task", deployment: UUID) -> None:
        from models.parameters import parameters  # as under TYPE_CHECKING

        run = await patiently(
            lambda: self._client.create_flow_run_from_deployment(
                deployment,
                parameters=parameters(task, task.target),
                idempotency_key=f"fleetflow-task-{task.id}-{task.created_at}",
                tags=_tags(task),
            )
        )
        await asyncio.to_thread(self._requests.bind, task.id, run.id)

    async def _deployment(self, name: str) -> UUID | None:
        """The id of a deployment of our work pool; another pool's would run the task with another database."""
        try:
            found = await patiently(lambda: self._client.read_deployment_by_name(name))
        except ObjectNotFound:
            log.warning("Prefect has no deployment %s; `fleetflow up` makes it", name)
            return None
        if found.work_pool_name != self._work_pool:
            log.warning("the deployment %s is of the work pool %s, not of ours", name, found.work_pool_name)
            return None
        return found.id

    async def _end_forgotten(self) -> None:
        """End tasks whose flow run has ended, or is gone, without taking them. Seen twice, to be sure."""
        taken = await asyncio.to_thread(self._requests.taken)
        runs = {run.id: run for run in await self._read([one.flow_run_id for one in taken])}
        suspects = {one.task: runs.get(one.flow_run_id) for one in taken if _has_ended(runs.get(one.flow_run_id))}
        for task, run in suspects.items():
            if task in self._suspects and await asyncio.to_thread(self._requests.end, task, _why(run)):
                log.warning("task %d has ended: %s", task, _why(run))
        self._suspects = set(suspects)

    async def _read(self, ids: Sequence[UUID]) -> list[FlowRun]:
        if not ids:
            return []
        return await self._client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(ids))))


def _name(task: "Task") -> str:
    return _SCRIPT if task.command.interpreter else _COMMAND


def _tags(task: "Task") -> list[str]:
    tags: list[Any] = [Tag.TASK.of(task.id)]
    return [*tags, *([Tag.RETRY_OF.of(task.retry_of)] if task.retry_of else []), *([Tag.BY.of(task.created_by)] if task.created_by else [])]


def _has_ended(run: FlowRun | None) -> bool:
    return run is None or run.state is None or run.state.is_final()


def _why(run: FlowRun | None) -> str:
    if run is None or run.state is None:
        return "its flow run was deleted"
    return run.state.message or f"its flow run ended {run.state.name}"
