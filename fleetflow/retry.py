"""`fleetflow task retry`: runs hosts of an ended task again, as a new task that names the old one."""

import typer

from fleetflow.results import Printer
from fleetflow.run import check_target, send
from models.errors import NothingToRetryError, UsageError
from models.parameters import retry_parameters
from models.ranges import fold
from models.records import Task
from models.retries import Kind, choose, describe
from models.settings import Settings
from models.store import Store
from models.tags import Tag


def retry_task(store: Store, task: Task, kinds: list[Kind], printer: Printer, *, wait: bool) -> int:
    """Run the hosts of these kinds again; returns the exit code of `fleetflow run`. Raises `UsageError` or `NothingToRetryError`."""
    if not task.state.is_final:
        raise UsageError(f"task {task.id} has not ended yet; `fleetflow task cancel {task.id}` ends it")
    hosts = choose(store.executions(task.id), store.attempts(task.id), kinds)
    if not hosts:
        raise NothingToRetryError(task.id, describe(kinds))
    settings = Settings.load()
    target = fold(hosts)
    check_target(settings, target)
    typer.echo(f"retrying {len(hosts)} of {task.hosts} hosts of task {task.id}", err=True)
    return send(settings, retry_parameters(task, target), printer, wait=wait, tags=[Tag.RETRY_OF.of(task.id)])
