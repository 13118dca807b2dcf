"""Runs flows in one thread with one event loop.

This is the one module that leans on Prefect's internals (prefect 3.8): the flow run engine's steps, the client's
context, and the client's transport. tests/flows/test_worker.py holds every behaviour that this relies on.
"""

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.states import Cancelled, Crashed, Failed, Pending
from prefect.utilities.callables import call_with_parameters, get_call_parameters, parameters_to_args_kwargs
from prefect.utilities.engine import propose_state

from flows.ending import claim_message, end_run
from flows.limits import lease_of, place_kept, without_lease
from flows.patience import is_busy, patiently
from models.errors import LeaseLostError
from models.owner import Owner

log = logging.getLogger(__name__)

_OUTAGE = 60.0  # seconds; then Prefect's own, longer waits begin
_LONGEST_WAIT = 1.0  # seconds between tries

Lifespan = Callable[[], AbstractAsyncContextManager[object]]
Confirm = Callable[[], Awaitable[None]]


class CannotRunError(Exception):
    """A flow run that this worker cannot even begin; the message becomes that of its Crashed state."""


class RefusedError(CannotRunError):
    """A flow that this worker runs for nobody; the run ends Failed, under the name Refused."""


class Engine:
    """One thread with one loop, in which all flow runs of the worker live and share what `lifespan` opens.

    Before it tells Prefect anything, it awaits `confirm`, which raises `LeaseLostError` when this worker was taken for dead.
    The public methods are called from another loop or thread.
    """

    def __init__(self, owner: Owner, lifespan: Lifespan, confirm: Confirm) -> None:
        self._owner = owner
        self._lifespan = lifespan
        self._confirm = confirm
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run_loop, name="fleetflow-engine", daemon=True)
        self._flows: dict[str, Flow[Any, Any]] = {}
        self._runs: dict[UUID, _Run | None] = {}  # None until its flow is loaded
        self._cancels: dict[UUID, str] = {}
        self._base = contextvars.Context()
        self._client: PrefectClient  # once the thread has started

    async def start(self) -> None:
        """Start the thread and open the lifespan; raises what that raises."""
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    async def stop(self) -> None:
        """Close the lifespan and end the thread. Runs still under way are left as they are."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._thread.join)

    def carry_out(self, flow_run: FlowRun) -> "Future[State | None]":
        """Claim a flow run and run it to its end; None when it was not for us to run."""
        outcome: Future[State | None] = Future()
        self._loop.call_soon_threadsafe(self._begin, flow_run, outcome)
        return outcome

    def cancel(self, flow_run_id: UUID, reason: str) -> None:
        """Cancel the flow function of a run under way; unknown ids and repetitions do no harm."""
        self._loop.call_soon_threadsafe(self._cancel, flow_run_id, reason)

    async def load(self, entrypoint: str) -> None:
        """Import a flow ahead of its first run."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._load(entrypoint), self._loop))

    # What follows runs in the engine's thread.

    def _run_loop(self) -> None:
        living = self._loop.create_task(self._live())
        while not living.done():
            try:
                self._loop.run_until_complete(living)
            except (SystemExit, KeyboardInterrupt):  # asyncio lets these out of any task, and would stop with them
                log.exception("a flow tried to end the worker; it goes on")
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the start
                if not self._opened.done():
                    self._opened.set_exception(error)

    async def _live(self) -> None:
        async with self._lifespan(), _open_client(self._owner) as self._client:
            self._base = contextvars.copy_context()
            self._opened.set_result(None)
            await self._stopping.wait()

    def _begin(self, flow_run: FlowRun, outcome: "Future[State | None]") -> None:
        # A context of its own: whatever one run sets, no other run sees.
        task = self._loop.create_task(self._carry_out(flow_run), context=self._base.copy())
        task.add_done_callback(lambda done: _hand_over(done, outcome))

    def _cancel(self, flow_run_id: UUID, reason: str) -> None:
        if flow_run_id in self._runs:
            self._cancels.setdefault(flow_run_id, reason)
            if run := self._runs[flow_run_id]:
                run.cancel(reason)

    async def _carry_out(self, flow_run: FlowRun) -> State | None:
        self._runs[flow_run.id] = None
        try:
            claimed, entrypoint = await asyncio.gather(self._claim(flow_run.id), _entrypoint(self._client, flow_run))
            return await self._run(flow_run, entrypoint) if claimed else None
        finally:
            del self._runs[flow_run.id]
            self._cancels.pop(flow_run.id, None)

    async def _claim(self, flow_run_id: UUID) -> bool:
        """Move the run to Pending, which only one worker can; the message tells a successor whose it was."""
        message = claim_message(self._owner)
        await self._confirm()
        try:
            state = await patiently(lambda: propose_state(self._client, Pending(message=message), flow_run_id=flow_run_id))
        except Abort:
            state = cast(
                "State", (await patiently(lambda: self._client.read_flow_run(flow_run_id))).state
            )  # an answer that got lost looks like this too
        return state is not None and state.is_pending() and state.message == message

    async def _run(self, flow_run: FlowRun, entrypoint: str | None) -> State:
        try:
            state = await self._prepare(flow_run, await self._load(entrypoint)).carry_out()
            if not state.is_cancelling():
                return state
        except Pause as pause:
            return cast("State", pause.state)
        except LeaseLostError:
            raise  # what becomes of the run is not ours to tell any more
        except RefusedError as error:
            state = Failed(name="Refused", message=str(error))
        except CannotRunError as error:
            state = Crashed(message=str(error))
        except BaseException as error:
            log.warning("flow run %s crashed", flow_run.id, exc_info=True)
            state = Crashed(message=f"The flow run crashed: {error or type(error).__name__}")
        await self._confirm()
        return await end_run(self._client, flow_run.id, state)

    def _prepare(self, flow_run: FlowRun, flow: Flow[Any, Any]) -> "_Run":
        run = self._runs[flow_run.id] = _Run(flow=flow, flow_run=flow_run, parameters=_parameters(flow, flow_run), confirm=self._confirm)
        if flow_run.id in self._cancels:
            run.cancel(self._cancels[flow_run.id])
        return run

    async def _load(self, entrypoint: str | None) -> Flow[Any, Any]:
        if not entrypoint:
            raise CannotRunError("The flow run has no deployment that names its flow")
        if entrypoint not in self._flows:
            try:
                flow: Flow[Any, Any] = await asyncio.to_thread(load_flow_from_entrypoint, entrypoint, use_placeholder_flow=False)
            except Exception as error:
                raise CannotRunError(f"The flow {entrypoint} cannot be loaded: {error}") from error
            if not flow.isasync or flow.isgenerator:
                raise RefusedError(f"The flow {entrypoint} is not async; a fleetflow worker runs only flows written `async def`")
            self._flows[entrypoint] = flow
        return self._flows[entrypoint]


@dataclass
class _Run(AsyncFlowRunEngine[Any, Any]):
    """Prefect's engine for one flow run, whose flow function alone can be cancelled."""

    confirm: Confirm = field(kw_only=True)
    cancel_reason: str | None = field(default=None, init=False)
    _body: "asyncio.Future[Any] | None" = field(default=None, init=False)

    async def carry_out(self) -> State:
        async with self.start():
            while self.is_running():
                async with self.run_context(), place_kept(self.client, lease_of(self.flow_run)):
                    await self.call_flow_fn()
        return self.state

    @property
    def state(self) -> State:
        """What the engine looks at: without the lease of a concurrency limit, which we keep ourselves."""
        return without_lease(super().state)

    def cancel(self, reason: str) -> None:
        if self.cancel_reason is None:
            self.cancel_reason = reason
            if self._body is not None:
                self._body.cancel()

    async def call_flow_fn(self) -> Any:
        """Run the flow function as a task of its own: cancelling the engine's own task would end the run Crashed."""
        if self.cancel_reason is None:
            self._body = asyncio.ensure_future(_call(self.flow.fn, self.parameters or {}))
            await _wait_to_the_end(self._body)
            if not (self._body.cancelled() and self.cancel_reason):
                return await self.handle_success(self._body.result())
        return await self.set_state(Cancelled(message=self.cancel_reason))

    async def set_state(self, state: State, force: bool = False) -> State:
        """Set a state, however long the server is away: a run must not end in a state that nobody hears of."""
        await self.confirm()
        return await patiently(functools.partial(super().set_state, state, force=force))

    @contextmanager
    def setup_flow_run_suspension_request(self) -> Iterator[Any]:
        """Without Prefect's observer, which costs a thread, a websocket and up to 2 s a run."""
        yield self._flow_run_suspension_request


async def _wait_to_the_end(body: "asyncio.Future[Any]") -> None:
    try:
        await asyncio.wait([body])
    except asyncio.CancelledError:  # the flow's own timeout
        body.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([body])
        raise


async def _call(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    try:
        return await cast("Awaitable[Any]", call_with_parameters(function, parameters))
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the flow tried to end its process: {error!r}") from error


def _parameters(flow: Flow[Any, Any], flow_run: FlowRun) -> dict[str, Any]:
    args, kwargs = parameters_to_args_kwargs(flow.fn, flow_run.parameters)
    return get_call_parameters(flow.fn, args, kwargs)


async def _entrypoint(client: PrefectClient, flow_run: FlowRun) -> str | None:
    deployment_id = flow_run.deployment_id
    if deployment_id is None:
        return None
    try:
        return (await patiently(lambda: client.read_deployment(deployment_id))).entrypoint
    except ObjectNotFound:
        return None


def _hand_over(done: "asyncio.Task[State | None]", outcome: "Future[State | None]") -> None:
    if done.cancelled():
        outcome.cancel()
    elif error := done.exception():
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())


@asynccontextmanager
async def _open_client(owner: Owner) -> AsyncIterator[PrefectClient]:
    """One client for all runs (a new one costs 40 ms of TLS set-up), found by everything that asks Prefect for a client in this context."""
    context = AsyncClientContext()
    client = context.client
    soften(client)
    # Every run that the engine starts carries our name, in a request that it makes anyway.
    client.update_flow_run = functools.partial(client.update_flow_run, infrastructure_pid=str(owner))  # type: ignore[method-assign] # as said
    async with context:
        # A client that is there is found: Prefect would make a new one at each run, and stop the whole loop for the 40 ms.
        with SyncClientContext():
            yield client


def soften(client: PrefectClient) -> None:
    """Make a client ask again soon: its own waits are 2, 4, 8 ... s, where a busy SQLite is free after 50 ms, and a server back in 5 s."""
    http = client._client  # noqa: SLF001 - the transport can only be wrapped once Prefect has made it
    http._transport = _PatientTransport(http._transport)  # noqa: SLF001 - as above


class _PatientTransport(httpx.AsyncBaseTransport):
    """Sends a request again, for a minute, while the server is busy or away: after 50, 100, 200 ... ms, at most a second.

    That is safe for a request whose answer was lost: Prefect knows a change of state by its transition id.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wait = 0.05
        give_up = time.monotonic() + _OUTAGE
        while True:
            try:
                response = await self._inner.handle_async_request(request)
            except httpx.TransportError:
                if time.monotonic() > give_up:
                    raise
            else:
                if not is_busy(response) or time.monotonic() > give_up:
                    return response
                await response.aclose()
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def aclose(self) -> None:
        await self._inner.aclose()
