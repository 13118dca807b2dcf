"""The Prefect worker type `fleetflow`: it runs flows inside its own warm process.

Prefect finds it by the entry point group `prefect.collections`; `python -m flows.worker` is the worker of a local stack.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from flows.dispatcher import Dispatcher
from flows.doorbell import Doorbell
from flows.engine import Engine, soften
from flows.lock import hold, hold_life
from flows.messenger import Messenger
from flows.patience import patiently
from flows.reaper import Reaper, lives
from flows.steering import DRAIN_LIMIT, Steering
from flows.waiting import WaitingRoom
from models import bells
from models.errors import FleetflowError, LeaseLostError, UnavailableError
from models.owner import Owner
from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy, which every prefect command would pay for
    from models.lease import Lease

log = logging.getLogger(__name__)

_FAREWELL = 5.0  # seconds for the rest, once no run is under way
_FULL_POLL = 15.0  # seconds between polls that tell the server that its queues are served; it waits for 60
_REAP = 5.0  # seconds between looks for dead workers, at most
_CROWDED_POLL = 2.0  # seconds between looks for new runs while no place is free; an end that frees one does not wait for it
POLL = 0.5  # seconds between looks for new runs; a ring does not wait for it


class FleetflowWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Takes flow runs from a work pool and runs them, warm, in one engine thread."""

    type = "fleetflow"
    _description = "Runs flows inside a warm fleetflow worker, with its open connections."

    needs_socket = False  # a stack's worker does: the command line rings there
    _engine: Engine
    _lease: "Lease"

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        # Nothing to configure: flows run in this process. Prefect refuses an empty job configuration.
        return {"job_configuration": {"type": cls.type}, "variables": {"type": "object", "properties": {}}}

    async def run(
        self, flow_run: FlowRun, configuration: BaseJobConfiguration, task_status: anyio.abc.TaskStatus[Any] | None = None
    ) -> BaseWorkerResult:
        """Run one flow run to its end, as Prefect's own worker loop would ask for it."""
        del configuration
        if task_status is not None:
            task_status.started(str(self._owner))
        await asyncio.wrap_future(self._engine.carry_out(flow_run))
        return BaseWorkerResult(identifier=str(self._owner), status_code=0)

    async def start(self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print) -> None:
        """Serve the work pool until a signal drains the worker; after USR1 it leaves what can go on. A second one ends it at once."""
        del with_healthcheck  # served by Prefect's command line, around this call
        try:
            settings = Settings.load()
            self._owner = Owner.load(settings.home)
            with hold_life(lives(settings.home), self._owner.incarnation), self._hold_socket(settings.home, printer) as has_socket:
                await self._serve(settings, has_socket=has_socket, run_once=run_once, printer=printer)
        except FleetflowError as error:
            print(f"fleetflow worker: {error}", file=sys.stderr)  # noqa: T201 - its last word, wherever its log goes
            raise SystemExit(error.exit_code) from None
        printer(f"Worker {self.name!r} stopped!")

    @contextmanager
    def _hold_socket(self, home: Path, printer: Callable[..., None]) -> Iterator[bool]:
        """Hold the right to the socket of `home`, which one worker has; a further one that somebody starts by hand does without."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(home / "worker.lock"))
            except UnavailableError as error:
                if self.needs_socket:
                    raise
                printer(f"{error}; this one finds its runs by polling")
                yield False
            else:
                yield True

    async def _serve(self, settings: Settings, *, has_socket: bool, run_once: bool, printer: Callable[..., None]) -> None:
        self._ring = asyncio.Event()
        self._stopping = asyncio.Event()
        self._keeps = False
        self._drain_grace = settings.drain_grace
        if self.name.startswith(type(self).__name__):  # nobody gave a name: one that stays the same over restarts
            self.name = f"{self._owner.host}-{self._owner.home[:6]}" + ("" if has_socket else f"-{self._owner.incarnation[:4]}")
        with _signals({signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGUSR1: partial(self._stop, keep=True)}):
            async with self, self._open_engine(settings), self._open_doorbell(settings, has_socket=has_socket) as steering:
                gc.freeze()  # all of Prefect among it: each full collection would look through it for 0.2 s while every run waits
                printer(f"Worker {self.name!r} started!")
                await (self._run_once(steering) if run_once else self._run_on(steering, settings))
                if self._lease.is_lost:
                    raise LeaseLostError(str(self._owner))

    @asynccontextmanager
    async def _open_engine(self, settings: Settings) -> AsyncIterator[None]:
        soften(self.client)
        await patiently(self.client.hello)
        self._engine = Engine(self._owner, lambda: _open_context(settings, self._owner), self._confirm)
        await self._engine.start()
        try:
            from flows import context  # as in _open_context
            from models.news import Newsroom
            from models.requests import Requests

            self._store, self._lease = context.current().store, context.current().lease
            self._reaper = Reaper(self.client, self._store, self._owner, settings.home, self._work_pool_name)
            self._dispatcher = Dispatcher(self.client, Requests(self._store.access), settings.home, self._work_pool_name, self._ring.set)
            self._messenger = Messenger(self.client, self._store, Newsroom(self._store.access, str(self._owner)), settings.hub_url)
            self._waiting = WaitingRoom(self.client, self._owner, self._limit or settings.flow_runs)
            await patiently(lambda: self._reaper.reap(thoroughly=True))
            yield
        finally:
            await self._engine.stop()

    @asynccontextmanager
    async def _open_doorbell(self, settings: Settings, *, has_socket: bool) -> AsyncIterator[Steering]:
        identity = {"worker": self.name, "version": version("fleetflow"), "pid": os.getpid(), "home": str(settings.home)}
        # Our own server rings for each new run, and sooner; that of somebody else cannot.
        self._doorbell = doorbell = Doorbell(identity, self._ring.set if settings.prefect_api_url else lambda: None)

        async def on_end(flow_run_id: UUID, state: State) -> None:
            await _tell(doorbell, flow_run_id, state)

        from flows import context  # as in _open_context

        rollouts = context.current().rollouts
        steering = Steering(
            self.client, self._engine, self._store, self._owner, self._reaper, rollouts, on_end=on_end, on_free=self._ring.set
        )
        loop = asyncio.get_running_loop()
        self._lease.when_lost(partial(loop.call_soon_threadsafe, self._on_lost))
        async with doorbell.open(settings.home / "worker.sock") if has_socket else contextlib.nullcontext():
            with bells.answered(settings.home, bells.Kind.POLL, self._ring.set):
                yield steering

    async def _confirm(self) -> None:
        await self._lease.confirm()

    def _on_lost(self) -> None:
        self._stopping.set()
        _exit_after(DRAIN_LIMIT + _FAREWELL, code=1)
        log.error("this worker slept longer than its lease, and was taken for dead; it ends its runs and stops")

    async def _run_once(self, steering: Steering) -> None:
        await self._poll(steering)
        ended = asyncio.create_task(steering.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        await (steering.abandon() if self._lease.is_lost else steering.drain(self._drain_grace, keep=self._keeps))
        stopping.cancel()

    async def _run_on(self, steering: Steering, settings: Settings) -> None:
        work = (
            self._poll_on(steering),
            self._heartbeat(),
            self._reap_on(steering, min(settings.lease / 3, _REAP)),
            steering.watch_cancels(),
            steering.obey_requests(),
            self._dispatcher.work(),
            self._messenger.work(),
        )
        loops = [asyncio.create_task(loop) for loop in work]
        polling, *_ = loops
        await self._stopping.wait()
        polling.cancel()
        await (steering.abandon() if self._lease.is_lost else steering.drain(settings.drain_grace, keep=self._keeps))
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)

    async def _poll_on(self, steering: Steering) -> None:
        fully = 0.0
        while True:
            rung, now = self._ring.is_set(), time.monotonic()
            self._ring.clear()
            try:
                if rung or now - fully > _FULL_POLL or (now - fully > self._pause(steering) and await self._is_anything_due()):
                    await self._poll(steering)
                    fully = now
            except Exception as error:  # noqa: BLE001 - a look that failed must not be the last
                log.warning("cannot ask Prefect for flow runs: %r", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._ring.wait()

    def _pause(self, steering: Steering) -> float:
        """Seconds between full looks: while no place is free, what is due does not change much."""
        return _CROWDED_POLL if len(steering.under_way) >= self._waiting.places else 0.0

    async def _is_anything_due(self) -> bool:
        """Ask without leaving a trace: a full poll makes the server write twice, which its SQLite feels at two polls a second."""
        due = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC)),
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
            limit=1,
        )
        self._last_polled_time = datetime.now(UTC)
        return bool(due)

    async def _poll(self, steering: Steering) -> None:
        """Take what is due. Nothing is taken ahead of its time: a claimed run could not be cancelled or moved as freely."""
        due = await self.client.get_scheduled_flow_runs_for_work_pool(
            work_pool_name=self._work_pool_name, work_queue_names=sorted(self._work_queues), scheduled_before=datetime.now(UTC)
        )
        self._last_polled_time = datetime.now(UTC)
        new = [entry.flow_run for entry in due if entry.flow_run.id not in steering]
        for flow_run in self._waiting.choose(new, steering.under_way):
            self._doorbell.forget(flow_run.id)
            steering.take(flow_run)
        if new:
            self._dispatcher.look()

    async def _reap_on(self, steering: Steering, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await self._reaper.reap()
                await self._reaper.end_forgotten([run.id for run in steering.under_way])
            except Exception as error:  # noqa: BLE001 - Prefect or the database is away: the next look may get through
                log.warning("cannot end what dead workers left: %r", error)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_interval_seconds)
            try:
                await self.sync_with_backend()
            except Exception as error:  # noqa: BLE001 - the next beat may get through
                log.warning("no heartbeat could be sent to Prefect: %r", error)

    def _stop(self, *, keep: bool = False) -> None:
        if self._stopping.is_set():
            os._exit(1)
        self._keeps = keep
        self._stopping.set()
        _exit_after(self._drain_grace + DRAIN_LIMIT + _FAREWELL)
        log.info("stopping; once more to stop at once")


async def _tell(doorbell: Doorbell, flow_run_id: UUID, state: State) -> None:
    from flows import answers, context  # as in _open_context

    answer = {"flow_run_id": str(flow_run_id), "state": state.type.value, "name": state.name, "message": state.message}
    results: dict[str, object] = {}
    if doorbell.is_watched(flow_run_id):
        results = await asyncio.to_thread(answers.describe, context.current().store, flow_run_id)
    doorbell.tell(flow_run_id, answer, results)


@asynccontextmanager
async def _open_context(settings: Settings, owner: Owner) -> AsyncIterator[None]:
    """What all flows share."""
    from flows import context  # every prefect command imports this module, and must not pay for all our executors

    context.open_context(settings, owner)
    try:
        yield
    finally:
        await context.close_context()


def _exit_after(seconds: float, code: int = 0) -> None:
    """End the process even if Prefect's own farewell waits for a server that is gone."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


@contextmanager
def _signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
