"""`fleetflow task retry`: runs hosts of an ended task again, as a new task that names the old one."""

import typer

from fleetflow.results import Printer
from fleetflow.run import check_target, send
from models import commands
from models.errors import NothingToRetryError, UsageError
from models.ranges import fold
from models.records import Task
from models.retries import Kind, choose, describe, tag_retry_of
from models.settings import Settings
from models.store import Store

_NOT_AGAIN = {"pick", "script"}  # the hosts are chosen already; older tasks have their script twice


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
    return send(settings, _parameters(task, target), printer, wait=wait, tags=[tag_retry_of(task.id)])


def _parameters(task: Task, target: str) -> dict[str, object]:
    """The parameters of the flow run whose task this was, but for its target."""
    command = task.command
    stdin, encoding = commands.encode_stdin(command.stdin)
    asked = {
        "script" if command.interpreter else "command": command.script,
        "env": [f"{name}={value}" for name, value in command.env.items()],
        "cwd": command.cwd,
        "stdin": stdin,
        "stdin_encoding": encoding if stdin else None,
        "target": target,
    }
    options = {name: value for name, value in task.options.items() if name not in _NOT_AGAIN}
    return options | {name: value for name, value in asked.items() if value not in (None, "", [])}
