"""Tasks: create, list, show, cancel, retry."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, Discriminator, Field, Tag

from hub.api.asking import Desk, ScopeError
from hub.api.roles import BASE, Caller, Known, refuse
from hub.api.shapes import HostName, Limit, NewTask, Number, Progress, Retry, TaskPage, TaskShown, TaskWhole, Word
from models import bells
from models.errors import NotFoundError, NothingToRetryError, UsageError
from models.listing import Listing, Wanted
from models.parameters import parameters, retry_parameters
from models.ranges import fold
from models.records import Task, TaskSpec
from models.requests import Requests
from models.retries import Kind, choose, describe
from models.states import TaskState
from models.store import Store

router = APIRouter(prefix=f"{BASE}/tasks", tags=["tasks"])

_MANY = 1000  # tasks of one request

# Told apart by what they are, so that an error is of the one that was meant.
OneOrMany = Annotated[
    Annotated[NewTask, Tag("one")] | Annotated[list[NewTask], Field(min_length=1, max_length=_MANY), Tag("many")],
    Discriminator(lambda asked: "many" if isinstance(asked, list) else "one"),
]
TaskNumber = Annotated[Number, Path(description="The task's number.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key of the same token creates its tasks once, however often the request comes.",
    ),
]


@router.get("")
def list_tasks(
    request: Request,
    caller: Known,
    limit: Limit = 50,
    before: Annotated[Number | None, Query(description="Only tasks older than this number.")] = None,
    state: TaskState | None = None,
    host: HostName | None = None,
    name: Annotated[Word | None, Query(description="A part of the task's name.")] = None,
    created_by: Word | None = None,
    since: Annotated[AwareDatetime | None, Query(description="Created at this time or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Created before this time.")] = None,
) -> TaskPage:
    """List the newest tasks."""
    listing: Listing = request.app.state.listing
    wanted = Wanted(state=state, host=host, name=name, created_by=created_by, since=_seconds(since), until=_seconds(until))
    if caller.scope is not None:
        wanted = replace(wanted, created_by=caller.token.holder, since=max(wanted.since or 0.0, caller.token.created_at))
    found = listing.tasks(wanted, limit, before)
    return TaskPage(items=[TaskShown.of(task) for task in found], next=found[-1].id if len(found) == limit else None)


@router.post("", status_code=202)
def create_tasks(
    request: Request, response: Response, caller: Known, asked: OneOrMany | None = None, key: Key = None
) -> TaskShown | list[TaskShown]:
    """Create a task, or all or none of several. It has its number at once, and a worker takes it as soon as one is free."""
    desk: Desk = request.app.state.desk
    _check_key(key)
    wanted = asked if isinstance(asked, list) else [asked or NewTask()]
    try:
        specs = desk.specify(wanted, caller, key)
    except ScopeError as error:
        refuse(request, caller, str(error))
    shown = [TaskShown.of(task) for task in _create(request, caller, specs)]
    if isinstance(asked, list):
        return shown
    response.headers["Location"] = f"{BASE}/tasks/{shown[0].task}"
    return shown[0]


@router.get("/{task}")
def show_task(request: Request, caller: Known, task: TaskNumber) -> TaskWhole:
    """Show a task with its command and its rules."""
    found = find_task(request, caller, task)
    return TaskWhole.whole(found, parameters(found, found.target))


@router.get("/{task}/progress")
def show_progress(request: Request, caller: Known, task: TaskNumber) -> Progress:
    """Tell how far a task is: one row of the database."""
    return Progress.of(find_task(request, caller, task))


@router.post("/{task}/cancel", status_code=202)
def cancel_task(request: Request, caller: Known, task: TaskNumber) -> Progress:
    """Have a task ended: its commands are ended on their hosts, what has not started never will. One that has ended stays as it is."""
    requests: Requests = request.app.state.requests
    find_task(request, caller, task)
    requests.cancel(task, caller.actor)
    return Progress.of(find_task(request, caller, task))


@router.post("/{task}/retry", status_code=202)
def retry_task(
    request: Request, response: Response, caller: Known, task: TaskNumber, asked: Retry | None = None, key: Key = None
) -> TaskShown:
    """Run hosts of an ended task again, as a new task with the same command and policy."""
    store: Store = request.app.state.store
    desk: Desk = request.app.state.desk
    _check_key(key)
    former = find_task(request, caller, task)
    if not former.state.is_final:
        raise HTTPException(409, f"task {task} has not ended yet; a cancel ends it")
    kinds = [Kind(kind) for kind in (asked or Retry()).kinds]
    hosts = choose(store.executions(task), store.attempts(task), kinds)
    if not hosts:
        raise NothingToRetryError(task, describe(kinds))
    again = NewTask(**retry_parameters(former, fold(hosts)))
    (created,) = _create(request, caller, desk.specify([again], caller, key, retry_of=task))
    response.headers["Location"] = f"{BASE}/tasks/{created.id}"
    return TaskShown.of(created)


def find_task(request: Request, caller: Caller, number: int) -> Task:
    """A task that the caller may see; raises `NotFoundError`."""
    store: Store = request.app.state.store
    task = store.task(number)
    if not caller.token.sees(task):
        raise NotFoundError("task", number)
    return task


def _check_key(key: str | None) -> None:
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("Idempotency-Key: give at most 200 letters, digits and signs of ASCII, without spaces")


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _create(request: Request, caller: Caller, specs: list[TaskSpec]) -> list[Task]:
    requests: Requests = request.app.state.requests
    with request.app.state.hub.metrics.task_creation.time():
        created = requests.create(specs, caller.actor)
    bells.ring(request.app.state.settings.home, bells.Kind.DISPATCHER)
    return created
