"""What happens, as it happens: server-sent events. The database is asked again and again; a client that reads slowly holds nothing."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from hub.api.executions import AttemptNumber, Host, Offset, find_attempt, read_output
from hub.api.roles import BASE, Caller, Known
from hub.api.shapes import ExecutionShown, OutputRange, Progress
from hub.api.tasks import TaskNumber, find_task
from models.listing import Listing
from models.records import Execution
from models.values import Stream

router = APIRouter(prefix=f"{BASE}/tasks/{{task}}", tags=["live"])

_LOOK = 0.5  # seconds between two looks while nothing comes
_SILENCE = 15.0  # seconds after which a comment says that we are still here
_STREAMS = 200  # at the same time
_MANY = 500  # executions of one look
_LATE = 60.0  # seconds that an end may be written after its own time
_PIECE = 16 * 1024  # bytes of one event

LastId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=2**53)]


class Streams:
    """Counts the streams of a hub."""

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """The place of one more."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    @property
    def is_full(self) -> bool:
        return self._open >= _STREAMS


@router.get("/events", response_class=StreamingResponse)
async def follow_task(request: Request, caller: Known, task: TaskNumber) -> StreamingResponse:
    """Follow a task until it ends: `progress` when its numbers change, `execution` for each host that ends, `end` at last."""
    await run_in_threadpool(find_task, request, caller, task)
    return _stream(request, _task_events(request, caller, task))


@router.get("/executions/{host}/output/live", response_class=StreamingResponse)
async def follow_output(
    request: Request,
    caller: Known,
    task: TaskNumber,
    host: Host,
    stream: Stream = Stream.STDOUT,
    offset: Offset = 0,
    attempt: AttemptNumber = None,
    last_event_id: LastId = None,
) -> StreamingResponse:
    """Follow what a host prints until it ends: `output` with a part, `end` at last. The id of an event is where the next one begins."""
    found = await run_in_threadpool(find_attempt, request, caller, task, host, attempt)
    begin = offset if last_event_id is None else last_event_id
    return _stream(request, _output_events(request, caller, found, stream, begin, attempt))


def _stream(request: Request, events: AsyncIterator[bytes]) -> StreamingResponse:
    streams: Streams = request.app.state.streams
    if streams.is_full:
        raise HTTPException(503, f"{_STREAMS} streams are open already; try again", {"Retry-After": "10"})

    async def counted() -> AsyncIterator[bytes]:
        with streams.one():
            async for event in events:
                yield event

    return StreamingResponse(counted(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _task_events(request: Request, caller: Caller, number: int) -> AsyncIterator[bytes]:
    ends = _Ends(request.app.state.listing, number)
    shown: Progress | None = None
    while not request.app.state.hub.is_closing:
        task = await run_in_threadpool(find_task, request, caller, number)
        progress = Progress.of(task)
        if progress != shown:
            yield _event("progress", progress)
            shown = progress
        while ended := await run_in_threadpool(ends.new):
            for execution in ended:
                yield _event("execution", ExecutionShown.of(execution))
        if task.state.is_final:
            yield _event("end", progress)
            return
        async for beat in _pause(request):
            yield beat


class _Ends:
    """The executions of a task that have ended since they were last asked for, each once."""

    def __init__(self, listing: Listing, task: int) -> None:
        self._listing = listing
        self._task = task
        self._told: dict[int, float] = {}

    def new(self) -> list[Execution]:
        """The next ones; none when all have been told."""
        since = max(self._told.values(), default=0.0) - _LATE
        self._told = {number: at for number, at in self._told.items() if at >= since}
        found = self._listing.ended(self._task, since, _MANY + len(self._told))
        new = [execution for execution in found if execution.id not in self._told]
        self._told |= {execution.id: execution.finished_at or 0.0 for execution in new}
        return new


async def _output_events(
    request: Request, caller: Caller, execution: Execution, stream: Stream, offset: int, attempt: int | None
) -> AsyncIterator[bytes]:
    listing: Listing = request.app.state.listing
    while not request.app.state.hub.is_closing:
        is_over = execution.state.is_final
        part = await run_in_threadpool(read_output, listing, execution, stream, offset, _PIECE)
        if part.data:
            offset = part.offset + len(part.data)
            yield _event("output", OutputRange.of(stream, part, is_over=is_over), offset)
            continue
        if is_over:
            yield _event("end", ExecutionShown.of(execution))
            return
        async for beat in _pause(request):
            yield beat
        execution = await run_in_threadpool(find_attempt, request, caller, execution.task_id, execution.host, attempt)


async def _pause(request: Request) -> AsyncIterator[bytes]:
    """Wait for the next look, with a sign of life from time to time."""
    await asyncio.sleep(_LOOK)
    state = request.state
    if time.monotonic() - getattr(state, "beat_at", 0.0) > _SILENCE:
        state.beat_at = time.monotonic()
        yield b": still here\n\n"


def _event(kind: str, what: BaseModel, number: int | None = None) -> bytes:
    where = "" if number is None else f"id: {number}\n"
    return f"event: {kind}\n{where}data: {json.dumps(what.model_dump(mode='json'))}\n\n".encode()
