"""The parameters of the flow `run-command`, as the command line, the REST API and Prefect's forms fill them in; and the way back."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from models import commands, scripts
from models.policy import Policy, read_policy
from models.records import Task
from models.settings import Settings
from models.values import Command, OnDisconnect

_NAME = 80  # characters of a run's name


def run_name(what: str, target: str) -> str:
    """What a run is called in lists: `uptime on web[1-9]`."""
    name = f"{' '.join(what.split())} on {target}"
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def read_command(
    settings: Settings,
    *,
    command: str = "",
    script: str = "",
    interpreter: str = "",
    arguments: Sequence[str] = (),
    env: Sequence[str] = (),
    cwd: str = "",
    stdin: str = "",
    stdin_encoding: str = "text",
    timeout: float | None = None,
    become: bool = False,
    become_user: str = "root",
    become_password: str = "",
    umask: str = "",
    on_disconnect: str = "configured",
) -> Command:
    """The command that these parameters stand for, checked; raises `UsageError`."""
    as_user, password = commands.become(become, become_user, become_password)
    found = Command(
        script=commands.either(command, script),
        env=commands.parse_env(env),
        cwd=cwd or None,
        stdin=commands.decode_stdin(stdin, stdin_encoding),
        timeout=settings.timeout if timeout is None else timeout,
        on_disconnect=settings.on_disconnect if on_disconnect == "configured" else OnDisconnect(on_disconnect),
        become=as_user,
        become_password=password,
        umask=umask or None,
        interpreter=scripts.interpreter(script, interpreter) if script else (),
        arguments=tuple(arguments),
    )
    commands.check(found)
    return found


COMMAND = frozenset(name for name, parameter in signature(read_command).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY)


def read_rules(settings: Settings, *, forks: int | None, **rules: Any) -> Policy:
    """The policy that these parameters stand for (`read_policy` names them); raises `UsageError`."""
    return read_policy(forks=settings.forks if forks is None else forks, **rules)


def parameters(task: Task, target: str) -> dict[str, Any]:
    """The parameters of a flow run that does what a task says, on this target."""
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
    options = {name: value for name, value in task.options.items() if name != "script"}  # older tasks have it twice
    return options | {name: value for name, value in asked.items() if value not in (None, "", [])}


def retry_parameters(task: Task, target: str) -> dict[str, Any]:
    """The same for some of a task's hosts, which are chosen already."""
    return {name: value for name, value in parameters(task, target).items() if name != "pick"}


def options_of(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are not as usual: what a task keeps beside its command, so that it can be run again."""
    return {name: value for name, value in given.items() if name not in _KEPT_ELSEWHERE and value != usual.get(name)}


_KEPT_ELSEWHERE = frozenset({"command", "script", "target", "env", "cwd", "stdin", "stdin_encoding"})
