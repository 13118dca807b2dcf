"""The flow `run-command`: one command on the hosts of a target."""

import asyncio
from dataclasses import replace
from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed
from pydantic.json_schema import SkipJsonSchema

from flows import logins
from flows.context import current
from flows.lateness import skip_if_late
from flows.nowhere import NOWHERE
from flows.perform import perform
from flows.request import Request, options_given, read_options, resolve_hosts
from models.commands import check_limits
from models.errors import NoHostsError, UsageError
from models.parameters import read_command, read_rules, run_name
from models.tags import Tag


def name_of_run() -> str:
    """What the current flow run is called."""
    parameters = flow_run.parameters
    what = parameters.get("command") or parameters.get("script_name") or "script"
    return run_name(str(what), str(parameters["target"]))


@flow(name="run-command", flow_run_name=name_of_run, retries=0, persist_result=False, result_storage=NOWHERE, log_prints=False)
async def run_command(
    command: str = "",
    target: str = "localhost",
    timeout: float | None = None,
    become: bool = False,
    become_user: str = "root",
    become_password: str = "",
    forks: int | None = None,
    waves: str = "",
    wave_pause: float = 0,
    confirm_waves: bool = False,
    max_failures: str = "",
    ignore_unreachable: bool = False,
    retries: int = 0,
    retry_delay: float = 5,
    deadline: float | None = None,
    order: Literal["listed", "shuffled"] = "listed",
    pick: int | None = None,
    cwd: str = "",
    env: list[str] = [],  # noqa: B006 - Prefect shows the default in its form; it is never changed
    stdin: str = "",
    stdin_encoding: Literal["text", "base64"] = "text",
    umask: str = "",
    on_disconnect: Literal["configured", "end", "linger", "detach"] = "configured",
    executor: Literal["auto", "ssh", "local", "agent"] = "auto",
    user: str = "",
    identity: str = "",
    credentials: str = "",
    host_key: Literal["configured", "strict", "accept-new", "off"] = "configured",
    connect_timeout: float | None = None,
    script: SkipJsonSchema[str] = "",
    script_name: SkipJsonSchema[str] = "",
    interpreter: SkipJsonSchema[str] = "",
    arguments: SkipJsonSchema[list[str]] = [],  # noqa: B006 - as above
) -> State[None]:
    """Run a shell command on every host of a target, and keep each host's outcome and output.

    Args:
        command: What to run: shell text for /bin/sh, as you would type it on the host.
        target: Which hosts: `web[01-20],@db,!web07`, `@prod&@web`, `tag:dc=ams`, `root@10.0.0.1:2222`, `localhost`.
        timeout: Seconds the command may take on a host before it is ended there. None: no limit.
        become: Whether sudo makes it run as another user.
        become_user: The user it then runs as.
        become_password: What sudo is answered when it asks: `secret:NAME`, a secret of the worker, never the password itself.
            Empty: the worker's setting become_password; where there is none, sudo must not ask.
        forks: How many hosts run at the same time. None: as the settings say (100).
        waves: How many hosts have had their turn after each wave, as in `1,10%,100%`: one host, then up to a tenth of them, then all.
            Empty: all in one wave.
        wave_pause: Seconds between two waves.
        confirm_waves: Whether somebody has to agree before each wave but the first, here or with `fleetflow task approve`.
        max_failures: How many hosts may go wrong, as in `5` or `5%` of the task's hosts; once more have, no further host is started.
            Failed, timed out, unreachable and lost hosts count alike. Empty: any number.
        ignore_unreachable: Unreachable hosts do not count against max_failures.
        retries: How often a host that failed, or that could not be reached, is tried again.
        retry_delay: Seconds before the second try; doubled before each further one.
        deadline: Seconds from the task's start after which nothing more is started, and what runs is ended. None: none.
        order: The order in which hosts have their turn: `listed` goes by name, `shuffled` by chance.
        pick: Run on only so many hosts of the target, chosen by chance. None: on all of them.
        cwd: Folder on the host in which the command runs. Empty: the home of the user it runs as.
        env: Environment of the command as NAME=value, one an entry. `NAME=secret:KEY` takes the value from the worker, or from
            the Secret block KEY; plain values are stored and shown.
        stdin: What the command reads from its standard input.
        stdin_encoding: `base64` for a stdin that is not text.
        umask: Which permissions new files do not get, in octal: `027`. Empty: as the login, or sudo, has it.
        on_disconnect: What a host does with the running command when nobody is attached to it any more, because the connection
            or the worker is gone. `end`: ends it. `linger`: ends it after 30 s, unless somebody attached again. `detach`: lets it run.
        executor: How hosts are reached. `auto` does as the inventory says, and SSH where it says nothing.
        user: The user to log in as over SSH. Empty: as the inventory, the settings or ~/.ssh/config say.
        identity: Path of the SSH private key to offer first, on the worker's machine. Empty: as configured.
        credentials: Name of a Prefect block of the type fleetflow SSH credentials, with whose key or password the worker logs in.
            Empty: as the inventory says.
        host_key: What is done with a host key that is not in known_hosts. `configured`: as inventory, settings or ~/.ssh/config say.
        connect_timeout: Seconds a host has to accept the command. None: as the settings or the host's
            ConnectTimeout in ~/.ssh/config say (10).
        script: Filled in by `run-script`, as the three that follow, and by schedules from before there was one; no form shows them.
        script_name: As in `run-script`.
        interpreter: As in `run-script`.
        arguments: As in `run-script`.
    """
    if reason := await skip_if_late():
        return Cancelled(name="Skipped", message=reason)
    context = current()
    settings = context.settings
    try:
        options = read_options(executor, user, identity, host_key, credentials, connect_timeout)
        request = Request(
            name=run_name(command or script_name or "script", target),
            command=read_command(
                settings,
                command=command,
                script=script,
                interpreter=interpreter,
                arguments=arguments,
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdin_encoding=stdin_encoding,
                timeout=timeout,
                become=become,
                become_user=become_user,
                become_password=become_password,
                umask=umask,
                on_disconnect=on_disconnect,
            ),
            target=target,
            hosts=await asyncio.to_thread(resolve_hosts, target, options, settings),
            connect_timeout=settings.connect_timeout if connect_timeout is None else connect_timeout,
            policy=read_rules(
                settings,
                waves=waves,
                wave_pause=wave_pause,
                max_failures=max_failures,
                ignore_unreachable=ignore_unreachable,
                retries=retries,
                retry_delay=retry_delay,
                deadline=deadline,
                forks=forks,
                order=order,
                pick=pick,
            ),
            options=options_given(run_command.fn, flow_run.parameters),
            retry_of=Tag.RETRY_OF.number(flow_run.tags),
            task=Tag.TASK.number(flow_run.tags),
            created_by=Tag.BY.read(flow_run.tags),
            reach=options,
            confirm_waves=confirm_waves,
            connect_timeout_is_default=connect_timeout is None and "connect_timeout" not in settings.model_fields_set,
        )
        check_limits(request.policy.forks, request.connect_timeout)
        login = await logins.require(options.credentials) if options.credentials is not None else None
        return await perform(context, replace(request, login=login))
    except NoHostsError as error:
        return Failed(name="No hosts", message=str(error))
    except UsageError as error:
        return Failed(name="Refused", message=str(error))
