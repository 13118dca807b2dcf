"""Ends what dead workers left: executions and tasks in the store, flow runs in Prefect; so that nothing shows Running for ever."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.ending import STOPPED, end_cancelling, end_orphans, read_run, reschedule, stamp
from flows.lock import is_free
from models.owner import Owner
from models.records import WORKER_STOPPED, Outcome, TaskLine
from models.states import ExecutionState, TaskState

if TYPE_CHECKING:  # SQLAlchemy, for which every prefect command would pay
    from models.store import Store

log = logging.getLogger(__name__)

_DIED = Outcome(state=ExecutionState.LOST, error="its worker died")  # of a command whose host cannot be asked
_UNOBEYED = timedelta(seconds=30)  # a living worker obeys a cancel within a second or two


def lives(home: Path) -> Path:
    """The folder in which each worker of `home` holds a lock for its life."""
    return home / "workers"


class Reaper:
    """Knows which workers are dead, and ends what they left. Of several reapers one takes a dead worker."""

    def __init__(self, client: PrefectClient, store: "Store", owner: Owner, home: Path, work_pool: str) -> None:
        self._client = client
        self._store = store
        self._owner = owner
        self._home = home
        self._work_pool = work_pool
        self._forgotten: set[int] = set()

    async def reap(self, *, thoroughly: bool = False) -> list[str]:
        """End what dead workers left, the store first; returns those of whom nothing is left.

        `thoroughly` also looks in Prefect for runs of workers of this home that the database does not know any more.
        """
        dead = await asyncio.to_thread(self._take_over)
        kept = [run for owner in dead for run in await self._settle(owner)]
        if dead or thoroughly:
            living = await asyncio.to_thread(self._store.living_workers)
            await end_orphans(
                self._client, self._work_pool, lambda run: run.id not in kept and self._is_dead(stamp(run), dead, living), self._end_of
            )
        if not kept:
            await asyncio.to_thread(self._forget, dead)
        return dead

    async def end_forgotten(self, running: Sequence[UUID]) -> None:
        """End our own tasks whose run has ended without them, as when the database was away at that moment. Seen twice, to be sure."""
        tasks = await asyncio.to_thread(self._store.open_tasks, str(self._owner))
        forgotten = [task for task in tasks if task.flow_run_id is not None and task.flow_run_id not in running]
        for task in forgotten:
            if task.id in self._forgotten:
                log.warning("ending task %d, whose flow run has ended without it", task.id)
                await asyncio.to_thread(self._store.close_task, task.id, reason="the flow run ended before it")
        self._forgotten = {task.id for task in forgotten}

    async def end_cancelling(self, running: Sequence[UUID]) -> None:
        """End runs that somebody wants cancelled and that nobody runs, such as one that waits for a retry."""
        living = await asyncio.to_thread(self._store.living_workers)

        def is_nobodys(run: FlowRun) -> bool:
            owner = stamp(run)
            if owner == str(self._owner):
                return run.id not in running
            return self._is_dead(owner, [], living) or (owner not in living and _is_old(run))

        await end_cancelling(self._client, self._work_pool, is_nobodys)

    def _take_over(self) -> list[str]:
        certain = {path.name for path in lives(self._home).glob("*") if is_free(path)}
        suspects = {*self._store.dead_workers(), *(owner for owner in self._store.living_workers() if self._incarnation(owner) in certain)}
        taken = [owner for owner in sorted(suspects - {str(self._owner)}) if self._take(owner, certain)]
        for owner in taken:
            log.warning("worker %s has ended; ending what it left", owner)
        return taken

    def _take(self, owner: str, certain: set[str]) -> bool:
        return self._store.take_over(owner, str(self._owner), certainly=self._incarnation(owner) in certain)

    def _incarnation(self, owner: str) -> str:
        return owner.rpartition(":")[2] if self._owner.same_home(owner) else ""

    def _is_dead(self, owner: str, dead: Sequence[str], living: set[str]) -> bool:
        """Whether a run's stamp is that of a dead worker; those of other homes that the database does not know are left alone."""
        return owner in dead or (self._owner.same_home(owner) and owner != str(self._owner) and owner not in living)

    async def _settle(self, dead: str) -> list[UUID | None]:
        """End a dead worker's tasks; returns the flow runs of those that stay open."""
        kept: list[UUID | None] = []
        for task in await asyncio.to_thread(self._store.open_tasks, dead):
            if task.is_durable and task.flow_run_id is not None and await self._hand_on(task.flow_run_id, dead, task.cancel_requested_by):
                kept.append(task.flow_run_id)
                continue
            decided = [(claim, _DIED) for claim in await asyncio.to_thread(self._store.running, task.id)]
            if not await asyncio.to_thread(self._store.settle, task.id, dead, decided):
                kept.append(task.flow_run_id)
        return kept

    async def _hand_on(self, flow_run_id: UUID, dead: str, canceled_by: str | None) -> bool:
        """Schedule a dead worker's flow run again: its next worker follows the durable runs. False if that cannot be."""
        run = await read_run(self._client, flow_run_id)
        if run is None or run.state is None or run.state.is_final():
            return False
        if stamp(run) == dead and not run.state.is_scheduled():
            if run.state.is_cancelling() and canceled_by is None:
                await asyncio.to_thread(self._store.request_cancel, flow_run_id, "Prefect")
            log.info("flow run %s (%s) goes on in the next worker", run.id, run.name)
            await reschedule(self._client, run)
        return True

    async def _end_of(self, run: FlowRun) -> State:
        return _verdict(await asyncio.to_thread(self._store.line_of_flow_run, run.id))

    def _forget(self, dead: Sequence[str]) -> None:
        for owner in dead:
            self._store.forget_worker(owner)
            if incarnation := self._incarnation(owner):
                (lives(self._home) / incarnation).unlink(missing_ok=True)


def _verdict(task: TaskLine | None) -> State:
    """How a run ends whose worker died: as its task did, where the task had come to an end of its own."""
    if task is None or task.reason == WORKER_STOPPED:
        return Crashed(message=STOPPED)
    hosts = f"{task.succeeded} of {task.hosts} hosts succeeded"
    match TaskState(task.state):
        case TaskState.SUCCEEDED:
            return Completed(message=hosts)
        case TaskState.CANCELED:
            return Cancelled(message=task.reason or "canceled")
        case TaskState.FAILED:
            return Failed(message=task.reason or hosts)
        case _:
            return Crashed(message=STOPPED)


def _is_old(run: FlowRun) -> bool:
    return run.state is not None and datetime.now(UTC) - run.state.timestamp > _UNOBEYED
