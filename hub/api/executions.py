"""Executions: a task on each of its hosts, and what they printed."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from hub.api.roles import BASE, Caller, Known
from hub.api.shapes import ExecutionPage, ExecutionShown, HostName, Limit, Number, OutputRange
from hub.api.tasks import TaskNumber, find_task
from models.errors import NotFoundError
from models.listing import Listing
from models.records import Execution
from models.slices import Slice
from models.states import ExecutionState
from models.store import Store
from models.values import Stream

router = APIRouter(prefix=f"{BASE}/tasks/{{task}}/executions", tags=["executions"])

Offset = Annotated[int, Query(ge=0, le=2**53, description="Bytes from the stream's start.")]
AttemptNumber = Annotated[Number | None, Query(description="Which try; the last one by default.")]
Host = Annotated[HostName, Path(description="As the task's target named it.")]


@router.get("")
def list_executions(
    request: Request,
    caller: Known,
    task: TaskNumber,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    state: Annotated[list[ExecutionState] | None, Query(max_length=9, description="Only those in one of these states.")] = None,
) -> ExecutionPage:
    """List the hosts of a task, and how each stands."""
    listing: Listing = request.app.state.listing
    find_task(request, caller, task)
    found = listing.executions(task, state or (), limit, after)
    return ExecutionPage(items=[ExecutionShown.of(one) for one in found], next=found[-1].id if len(found) == limit else None)


@router.get("/{host}/attempts")
def list_attempts(request: Request, caller: Known, task: TaskNumber, host: Host) -> list[ExecutionShown]:
    """Show every try at a host, the first one first."""
    store: Store = request.app.state.store
    find_task(request, caller, task)
    has_any = find_execution(store, task, host).attempt > 0
    return [ExecutionShown.of(one) for one in store.attempts(task, host)] if has_any else []


@router.get("/{host}/output")
def show_output(
    request: Request,
    caller: Known,
    task: TaskNumber,
    host: Host,
    stream: Stream = Stream.STDOUT,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=4, le=1024 * 1024, description="Bytes at most.")] = 64 * 1024,
    attempt: AttemptNumber = None,
) -> OutputRange:
    """Show a part of what a host printed. The following one begins at `next`."""
    listing: Listing = request.app.state.listing
    found = find_attempt(request, caller, task, host, attempt)
    part = read_output(listing, found, stream, offset, limit)
    return OutputRange.of(stream, part, is_over=found.state.is_final)


@router.get("/{host}")
def show_execution(request: Request, caller: Known, task: TaskNumber, host: Host) -> ExecutionShown:
    """Show how a task stands on a host."""
    find_task(request, caller, task)
    return ExecutionShown.of(find_execution(request.app.state.store, task, host))


def find_execution(store: Store, task: int, host: str) -> Execution:
    """Where a host of a task stands; raises `NotFoundError`."""
    (found,) = store.executions(task, host)
    return found


def find_attempt(request: Request, caller: Caller, task: int, host: str, number: int | None) -> Execution:
    """One try at a host, the last one by default; raises `NotFoundError`."""
    store: Store = request.app.state.store
    find_task(request, caller, task)
    if number is None:
        return find_execution(store, task, host)
    found = next((one for one in store.attempts(task, host) if one.attempt == number), None)
    if found is None:
        raise NotFoundError("attempt", f"{number} at {host} in task {task}", look=f"task show {task} --attempts")
    return found


def read_output(listing: Listing, execution: Execution, stream: Stream, offset: int, limit: int) -> Slice:
    """A part of a stream; nothing of what has no try yet."""
    if execution.attempt_id is None:
        return Slice(offset, b"", 0, offset)
    return listing.output(execution.attempt_id, stream, offset, limit)
