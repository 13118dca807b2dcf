"""`fleetflow run`: sends one command to the hosts of a target, follows it, and shows what came."""

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetflow import scriptfile, stack
from fleetflow.cancel import request_cancel
from fleetflow.confirm import confirm
from fleetflow.interrupts import Interrupts
from fleetflow.results import Printer, to_stderr, to_stdout
from fleetflow.text import inert
from fleetflow.who import user
from models import commands
from models.credentials import check_name
from models.errors import UnavailableError, UsageError
from models.parameters import COMMAND, read_command
from models.policy import Order, read_policy
from models.settings import Settings
from models.tags import Tag
from models.values import ExecutorKind, Host, HostKeyPolicy, OnDisconnect

if TYPE_CHECKING:  # each of these costs a tenth of a second or more, and waits until it is needed
    from fleetflow.client import Prefect
    from fleetflow.follow import Bar, Follower, Lines
    from models.records import TaskLine
    from models.store import Store

_EXIT_CODES = {"Refused": 2, "No hosts": 3}  # by the name that the flow gives to the state of a run it refuses
_AT_ONCE = 0.5  # seconds in which a small task may end, before the store is opened to follow it
_STDIN_BYTES = 256 * 1024  # Prefect takes parameters of at most 512 KiB


def run(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Shell text to run on every host; with --script, its arguments.")
    ] = None,
    *,
    target: Annotated[str, typer.Option("--target", "-t", help="Hosts: web[1-9],@db,!web7  user@name:port  tag:dc=ams  localhost.")],
    executor: Annotated[ExecutorKind | None, typer.Option(help="How hosts are reached; default: as the inventory says, else ssh.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="User to log in as over SSH.")] = None,
    identity: Annotated[Path | None, typer.Option("--identity", "-i", help="SSH private key to offer first.")] = None,
    credentials: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prefect block of SSH credentials that the worker logs in with.")
    ] = None,
    host_key: Annotated[HostKeyPolicy | None, typer.Option(help="What to do with a host key that is not in known_hosts.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds the command may take on a host.")] = None,
    connect_timeout: Annotated[float | None, typer.Option(help="Seconds a host has to accept the command.")] = None,
    on_disconnect: Annotated[
        OnDisconnect | None, typer.Option(help="What a host does with the running command when the connection or the worker is gone.")
    ] = None,
    forks: Annotated[int | None, typer.Option("--forks", "-f", help="Hosts that run at the same time.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, stored and shown; NAME=secret:KEY is resolved by the worker.")
    ] = None,
    cwd: Annotated[str | None, typer.Option(help="Folder on the host in which the command runs.")] = None,
    stdin: Annotated[str | None, typer.Option(help="File that the command reads from its standard input; - for ours.")] = None,
    waves: Annotated[str, typer.Option(help="Sizes of a rollout in steps: 1,10%,100% is one host, then a tenth of them, then all.")] = "",
    wave_pause: Annotated[float, typer.Option(help="Seconds between two waves.")] = 0,
    confirm_waves: Annotated[
        bool, typer.Option("--confirm-waves", help="Wait for `fleetflow task approve`, or a click in the UI, before each further wave.")
    ] = False,
    max_failures: Annotated[str, typer.Option(help="Hosts that may go wrong, 5 or 5%; once more have, no further one is started.")] = "",
    ignore_unreachable: Annotated[
        bool, typer.Option("--ignore-unreachable", help="Unreachable hosts do not count against --max-failures.")
    ] = False,
    retries: Annotated[int, typer.Option(help="Further tries of a host that failed or was unreachable.")] = 0,
    retry_delay: Annotated[float, typer.Option(help="Seconds before the second try; doubled before each further one.")] = 5,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds the whole task may take; then nothing starts, and what runs is ended.")
    ] = None,
    order: Annotated[Order, typer.Option(help="Whether hosts have their turn by name or by chance.")] = Order.LISTED,
    pick: Annotated[int | None, typer.Option(help="Run on only so many hosts of the target, chosen by chance.")] = None,
    script: Annotated[
        str | None, typer.Option(metavar="FILE", help="Script to run in place of a command, by its #! line; - for our input.")
    ] = None,
    interpreter: Annotated[
        str | None, typer.Option(metavar="LINE", help="Program that reads the script, in the place of its #! line: '/usr/bin/env python3'.")
    ] = None,
    become: Annotated[bool, typer.Option("--become", help="Run it as another user, by sudo.")] = False,
    become_user: Annotated[str, typer.Option(help="The user to become.")] = "root",
    become_password: Annotated[
        str | None, typer.Option(metavar="secret:NAME", help="What to answer when sudo asks: the name of a secret of the worker.")
    ] = None,
    umask: Annotated[str | None, typer.Option(help="Permissions that new files do not get, such as 027.")] = None,
    fold: Annotated[bool, typer.Option("--fold", "-b", help="Show equal outputs together.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each host.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave as soon as the task is accepted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal to type the number of many hosts.")] = False,
) -> None:
    """Run a command, or a script, on the hosts of a target.

    A script's arguments stand behind its name, those that begin with a dash behind --:
    fleetflow run --script deploy.sh -t @web -- --fast 2.1

    Exit code: 0 all succeeded, 1 some host did not, 2 usage, 3 the target matches no host, 4 Prefect, worker or database
    cannot be reached, 130 interrupted.
    """
    settings = Settings.load()
    text, arguments = scriptfile.read_words(words or [], script, is_stdin_taken=stdin == "-")
    stdin_text, encoding = commands.encode_stdin(_read_stdin(stdin))
    policy: dict[str, Any] = {
        "waves": waves,
        "wave_pause": wave_pause,
        "max_failures": max_failures,
        "ignore_unreachable": ignore_unreachable,
        "retries": retries,
        "retry_delay": retry_delay,
        "deadline": deadline,
        "order": order.value,
        "pick": pick,
    }
    unusual = read_policy(**policy).as_dict()
    asked = {
        "command": text if script is None else None,
        "target": target,
        "executor": executor and executor.value,
        "user": user,
        "identity": identity and str(_existing(identity)),
        "credentials": credentials,
        "host_key": host_key and host_key.value,
        "timeout": timeout,
        "connect_timeout": connect_timeout,
        "on_disconnect": on_disconnect and on_disconnect.value,
        "forks": forks,
        "cwd": cwd,
        "env": env,
        "stdin": stdin_text,
        "stdin_encoding": encoding if stdin_text else None,
        "become": become or None,
        "become_user": become_user if become or become_user != "root" else None,
        "become_password": become_password,
        "umask": umask,
        "script": None if script is None else text,
        "script_name": scriptfile.name(script),
        "interpreter": interpreter,
        "arguments": list(arguments),
        "confirm_waves": confirm_waves or None,
        **{name: policy[name] for name in unusual},
    }
    given = {name: value for name, value in asked.items() if value is not None}
    hosts = _check(settings, given)
    if not yes:
        confirm(hosts if pick is None else min(pick, hosts), settings.confirm_hosts)
    parameters = {name: value for name, value in given.items() if value not in ("", [])}
    raise typer.Exit(send(settings, parameters, Printer(fold=fold, as_json=as_json), wait=not no_wait))


def _check(settings: Settings, asked: Mapping[str, Any]) -> int:
    """The number of hosts; raises `UsageError` for what the flow would refuse, before anything is started or stored for it."""
    given = asked.get
    if not given("script", "x").strip():
        raise UsageError("the script is empty")
    read_command(settings, **{name: asked[name] for name in COMMAND & asked.keys()})
    if "interpreter" in asked and "script" not in asked:
        raise UsageError("--interpreter is for a script; a command is read by /bin/sh")
    if "credentials" in asked:
        check_name(asked["credentials"])
    commands.check_limits(given("forks", settings.forks), given("connect_timeout", settings.connect_timeout))
    hosts = check_target(settings, given("target", ""))
    scriptfile.check_size(asked)
    return hosts


def _read_stdin(source: str | None) -> bytes:
    if source is None:
        return b""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"--stdin {source}: {error.strerror}") from None
    if len(data) > _STDIN_BYTES:
        raise UsageError(
            f"--stdin {source}: {len(data)} bytes; a task carries at most {_STDIN_BYTES}, bring larger files to the hosts first"
        )
    return data


def _existing(identity: Path) -> Path:
    path = identity.expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"--identity {identity}: there is no such key file")
    return path


def check_target(settings: Settings, target: str) -> int:
    """How many hosts the target has, as far as this machine can know; raises `UsageError` or `NoHostsError` as the worker would."""
    return len(find_target(settings, target))


def find_target(settings: Settings, target: str) -> tuple[Host, ...]:
    """The hosts of the target, as far as this machine can know; raises as `check_target` does."""
    from models import targets
    from models.inventory import Inventory

    if settings.prefect_api_url:
        targets.check_syntax(target)  # the inventory is the worker's, which may be another machine's
        return ()
    return targets.resolve(target, Inventory.load(settings.home, settings.ssh_config.expanduser()))


def send(settings: Settings, parameters: dict[str, Any], printer: Printer, *, wait: bool, tags: Sequence[str] = ()) -> int:
    """Start a flow run with these parameters and follow it to its end; returns the exit code."""
    from fleetflow.client import RUN_COMMAND, RUN_SCRIPT, Prefect

    endpoint = stack.ensure_stack(settings)
    with Prefect(endpoint.api_url, endpoint.auth) as prefect, Interrupts() as interrupts:
        deployment = prefect.deployment(RUN_SCRIPT if "script" in parameters else RUN_COMMAND)
        if settings.prefect_api_url:
            _check_database(settings, prefect.database_of(deployment))
        run = prefect.run(deployment, parameters, key=f"fleetflow-{uuid.uuid4()}", tags=[*tags, Tag.BY.of(user())])
        if not wait:
            row = json.dumps({"flow_run": str(run.id), "name": run.name})
            to_stdout(row if printer.as_json else f"accepted as flow run {run.id}; `fleetflow task show {run.id}` shows how it goes")
            return 0
        return _wait(settings, prefect, run.id, printer, interrupts)


def _check_database(settings: Settings, theirs: str | None) -> None:
    """Raise `UnavailableError` when the worker behind a foreign API keeps its results where we would not find them."""
    from models.store import Store

    store = Store.open(settings.database)
    if theirs is not None and theirs != store.identity():
        raise UnavailableError(
            f"database {settings.database_shown}",
            f"is not the one that the worker of {settings.prefect_api_url} uses; set database_url to that",
        )
    store.close()


def _wait(settings: Settings, prefect: "Prefect", flow_run_id: uuid.UUID, printer: Printer, interrupts: Interrupts) -> int:
    from fleetflow.follow import Follower

    follower = Follower(settings, prefect, flow_run_id, on_waiting=printer.say)
    task = follower.ended_at_once(_AT_ONCE, printer.take) or _follow(settings, prefect, follower, printer, interrupts)
    printer.finish()
    if interrupts.asked:
        return interrupts.exit_code
    return _refused(prefect, flow_run_id) if task is None else _conclude(task, quiet=printer.as_json)


def _follow(settings: Settings, prefect: "Prefect", follower: "Follower", printer: Printer, interrupts: Interrupts) -> "TaskLine | None":
    from models.store import Store

    store = Store.open(settings.database)
    with _progress(printer) as progress:
        printer.go_through(progress.out, progress.err)
        task = follower.until_ended(
            store, printer.take, progress.show, lambda: bool(interrupts.asked), lambda task, question: progress.err(_waits(task, question))
        )
        if interrupts.asked:
            _cancel(prefect, store, follower, printer)
    return task


def _waits(task: "TaskLine", question: str) -> str:
    return f"task {task.id} waits for approval: {inert(question)} `fleetflow task approve {task.id}` lets it go on, with --refuse it ends"


def _cancel(prefect: "Prefect", store: "Store", follower: "Follower", printer: Printer) -> None:
    task = store.line_of_flow_run(follower.flow_run_id)
    name = f"task {task.id}" if task else f"flow run {follower.flow_run_id}"
    typer.echo(f"canceling {name}; Ctrl-C again leaves at once", err=True)
    try:
        request_cancel(store, prefect, follower.flow_run_id)
        follower.until_ended(store, printer.take, lambda _: None)
    except KeyboardInterrupt:
        typer.echo(f"left {name} while it is being canceled; `fleetflow task list` shows how it ends", err=True)


def _conclude(task: "TaskLine", *, quiet: bool) -> int:
    succeeded = task.state == "succeeded"
    if not (quiet and succeeded):
        reason = f" ({inert(task.reason)})" if task.reason else ""
        to_stderr(f"task {task.id} {task.state}: {task.succeeded} of {task.hosts} hosts succeeded{reason}")
    return 0 if succeeded else 1


def _refused(prefect: "Prefect", flow_run_id: uuid.UUID) -> int:
    """The flow ended before it had opened a task: its state says why."""
    found = prefect.flow_run(flow_run_id)
    typer.echo(f"fleetflow: {inert(found.message) if found else 'the flow run has been deleted'}", err=True)
    return _EXIT_CODES.get(found.state_name if found else "", 1)


def _progress(printer: Printer) -> "Bar | Lines":
    from fleetflow.follow import Bar, Lines

    return Bar() if sys.stderr.isatty() and not printer.as_json else Lines()
