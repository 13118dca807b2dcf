"""`fleetflow task`: what has run, what is running, and what it printed."""

import json
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetflow import stack
from fleetflow.cancel import request_cancel
from fleetflow.results import Printer
from fleetflow.text import clock, inert
from models.commands import describe
from models.errors import NotFoundError, UsageError
from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy costs a third of a second, which `--help` need not pay
    from models.records import Approval, Execution, Task, TaskLine
    from models.store import Store

app = typer.Typer(help="Tasks: what has run, and what it printed.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="TASK", help="The task's number, or the id of its flow run.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def _find(store: "Store", name: str) -> "Task":
    """The task that a number or a flow run id names; raises `NotFoundError` or `UsageError`."""
    if name.isdecimal():
        return store.task(int(name))
    try:
        flow_run_id = uuid.UUID(name)
    except ValueError:
        raise UsageError(f"task {name!r}: give its number, or the id of its flow run") from None
    found = store.task_of_flow_run(flow_run_id)
    if found is None:
        raise NotFoundError("task", f"of flow run {flow_run_id} (yet)")
    return found


def _open() -> "Store":
    from models.store import Store

    return Store.open(Settings.load().database)


@app.command("list")
def list_tasks(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    before: Annotated[int | None, typer.Option(help="Only tasks older than this number.")] = None,
    as_json: Json = False,
) -> None:
    """List the newest tasks."""
    tasks = _open().tasks(limit, before)
    if as_json:
        for task in tasks:
            typer.echo(json.dumps(_task_row(task)))
        return
    from fleetflow.follow import counts

    for task in tasks:
        typer.echo(f"{task.id:>6}  {task.state:9}  {clock(task.created_at)}  {counts(task):24}  {inert(task.name)}")


def _task_row(task: "TaskLine") -> dict[str, Any]:
    from models.rows import stamp

    row = task._asdict()
    times = {name: stamp(row.pop(name)) for name in ("created_at", "started_at", "finished_at")}
    flow_run = row.pop("flow_run_id")
    return {"task": row.pop("id"), "flow_run": str(uuid.UUID(str(flow_run))) if flow_run else None, **row, **times}


@app.command()
def show(
    name: Name, attempts: Annotated[bool, typer.Option("--attempts", help="Show every try of each host.")] = False, as_json: Json = False
) -> None:
    """Show a task and how each host stands."""
    from models.rows import row_without_output

    store = _open()
    task = _find(store, name)
    executions = store.attempts(task.id) if attempts else store.executions(task.id)
    if as_json:
        for execution in executions:
            typer.echo(json.dumps(row_without_output(execution)))
        return
    from fleetflow.follow import counts

    typer.echo(f"task {task.id} {task.state}: {counts(task)}" + (f" ({inert(task.reason)})" if task.reason else ""))
    for name, value in _details(task):
        typer.echo(f"  {name:9} {value}")
    for approval in store.approvals(task.id):
        typer.echo(f"  {'approval':9} {_approval_line(approval)}")
    if attempts:
        for attempt in executions:
            typer.echo(_attempt_line(attempt))
        return
    for execution in sorted(executions, key=lambda execution: (execution.state == "succeeded", execution.id)):
        typer.echo(_execution_line(execution))


def _details(task: "Task") -> list[tuple[str, str]]:
    command = task.command
    text = describe(command) if command.interpreter else json.dumps(command.script, ensure_ascii=False)
    rows = [("script" if command.interpreter else "command", inert(text)), ("target", inert(task.target))]
    rows += [("env", inert(f"{name}={value}")) for name, value in command.env.items()]
    rows += [("cwd", inert(command.cwd))] if command.cwd else []
    rows += [("timeout", f"{command.timeout:g} s")] if command.timeout else []
    rows += [("become", inert(command.become))] if command.become else []
    rows += [("password", inert(command.become_password))] if command.become_password else []
    rows += [("umask", command.umask)] if command.umask else []
    rows += [("cancel", f"asked for by {inert(task.cancel_requested_by)}")] if task.cancel_requested_by and not task.state.is_final else []
    rows += [("policy", inert(task.policy.describe()))]
    rows += [("retry of", f"task {task.retry_of}")] if task.retry_of else []
    rows += [("by", inert(task.created_by))] if task.created_by else []
    times = (("created", task.created_at), ("started", task.started_at), ("finished", task.finished_at))
    rows += [(name, shown) for name, seconds in times if (shown := clock(seconds))]
    return rows + ([("flow run", str(task.flow_run_id))] if task.flow_run_id else [])


def _approval_line(approval: "Approval") -> str:
    question = inert(approval.question)
    if approval.approved is None:
        return f"waits since {clock(approval.asked_at)}: {question}"
    said = ("approved" if approval.approved else "refused") + f" by {inert(approval.who)}" if approval.who else "not approved"
    why = f": {inert(approval.why)}" if approval.why else ""
    return f"{said}, {clock(approval.answered_at)}{why} ({question})"


def _execution_line(execution: "Execution") -> str:
    code = "" if execution.exit_code is None else f"exit {execution.exit_code}"
    seconds = "" if execution.duration is None else f"{execution.duration:.2f} s"
    return f"  {execution.state:11}  {inert(execution.host):24}  {code:8}  {seconds:>9}  {inert(execution.error or '')}".rstrip()


def _attempt_line(attempt: "Execution") -> str:
    return f"  try {attempt.attempt:<3}{_execution_line(attempt)}  {clock(attempt.finished_at) or ''}".rstrip()


@app.command()
def output(
    name: Name,
    host: Annotated[str | None, typer.Option("--host", "-H", help="Only this host, as the target named it.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="What they printed at this try; default: at their last one.")] = None,
    fold: Annotated[bool, typer.Option("--fold", "-b", help="Show equal outputs together.")] = False,
    raw: Annotated[bool, typer.Option(help="The bytes of one host's stdout as they came; not for a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the hosts of a task printed."""
    store = _open()
    task = _find(store, name)
    executions = store.executions(task.id, host) if attempt is None else _of_attempt(store, task, host, attempt)
    if raw:
        _write_raw(store, executions)
        return
    printer = Printer(fold=fold, as_json=as_json)
    for execution in executions:
        printer.take(store.row(execution))
    printer.finish()


def _of_attempt(store: "Store", task: "Task", host: str | None, number: int) -> "list[Execution]":
    found = [attempt for attempt in store.attempts(task.id, host) if attempt.attempt == number]
    if not found:
        raise NotFoundError("attempt", f"{number} at {host or 'any host'} in task {task.id}", look=f"task show {task.id} --attempts")
    return found


def _write_raw(store: "Store", executions: "list[Execution]") -> None:
    import sys

    from models.rows import joined
    from models.values import Stream

    if len(executions) != 1:
        raise UsageError("--raw shows one host: name it with --host")
    if sys.stdout.isatty():
        raise UsageError("--raw is not for a terminal: a host's bytes could act on it; send it to a file or a pipe")
    execution = executions[0]
    pieces = store.output(execution.attempt_id) if execution.attempt_id is not None else []
    sys.stdout.buffer.write(joined(execution, pieces, Stream.STDOUT))


@app.command()
def retry(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Failed, timed out, unreachable or never started (the default).")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Hosts whose outcome is not known: the command may have run.")] = False,
    not_started: Annotated[bool, typer.Option("--not-started", help="Hosts on which no try has ever started.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every host of the task.")] = False,
    fold: Annotated[bool, typer.Option("--fold", "-b", help="Show equal outputs together.")] = False,
    as_json: Json = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave as soon as the task is accepted.")] = False,
) -> None:
    """Run hosts of an ended task again, as a new task with the same command and policy.

    Exit code: as of `fleetflow run`; 3 when there is nothing to retry.
    """
    from fleetflow.retry import retry_task
    from models.retries import Kind

    asked = {Kind.FAILED: failed, Kind.LOST: lost, Kind.NOT_STARTED: not_started, Kind.ALL: everything}
    kinds = [kind for kind, is_asked in asked.items() if is_asked] or [Kind.FAILED]
    store = _open()
    raise typer.Exit(retry_task(store, _find(store, name), kinds, Printer(fold=fold, as_json=as_json), wait=not no_wait))


@app.command()
def cancel(name: Name, no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it has ended.")] = False) -> None:
    """End a task: its commands are ended on their hosts, what has not started never will."""
    from fleetflow.client import Prefect
    from fleetflow.follow import Follower

    settings = Settings.load()
    store = _open()
    task = _find(store, name)
    if task.state.is_final:
        typer.echo(f"task {task.id} has ended already: {task.state}", err=True)
        return
    if task.flow_run_id is None:
        raise UsageError(f"task {task.id} belongs to no flow run")
    endpoint = stack.ensure_stack(settings)
    with Prefect(endpoint.api_url, endpoint.auth) as prefect:
        request_cancel(store, prefect, task.flow_run_id)
        if no_wait:
            return
        ended = Follower(settings, prefect, task.flow_run_id).until_ended(store, lambda _: None, lambda _: None)
    typer.echo(f"task {task.id} {ended.state if ended else 'ended'}", err=True)


@app.command()
def approve(
    name: Name,
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no: the task ends canceled.")] = False,
    why: Annotated[str, typer.Option(help="Your reason; it is kept with the task.")] = "",
) -> None:
    """Let a task that waits for approval go on, in the name of the user who is logged in here."""
    from fleetflow.approval import answer
    from fleetflow.client import Prefect

    settings = Settings.load()
    store = _open()
    task = _find(store, name)
    question = store.open_approval(task.id)
    if question is None or task.flow_run_id is None:
        raise UsageError(f"task {task.id} waits for no approval: it is {task.state}")
    endpoint = stack.ensure_stack(settings)
    with Prefect(endpoint.api_url, endpoint.auth) as prefect:
        given = answer(store, prefect, task.flow_run_id, question, approve=not refuse, why=why)
    typer.echo(f"task {task.id} {_approval_line(given)}", err=True)
