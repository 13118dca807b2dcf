"""Turns what somebody wants into a task, checked as the command line and the flow check it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from hub.api.roles import Caller
from hub.api.shapes import NewTask
from models.commands import check_limits
from models.credentials import check_name
from models.current import CurrentInventory
from models.errors import UsageError
from models.inventory import Inventory
from models.parameters import COMMAND, options_of, read_command, read_rules, run_name
from models.records import TaskSpec
from models.settings import Settings
from models.targets import resolve

_USUAL = {name: field.default for name, field in NewTask.model_fields.items()}
_OF_SCOPE = {"target", "command"}  # what a token with a scope may say
_RULES = {
    "forks", "waves", "wave_pause", "max_failures", "ignore_unreachable", "retries", "retry_delay", "deadline", "order", "pick",
}  # fmt: skip


class ScopeError(UsageError):
    """More than the scope of a token allows."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Takes what is asked for. One a hub; any thread."""

    settings: Settings
    current: CurrentInventory

    def specify(self, asked: Sequence[NewTask], caller: Caller, key: str | None, *, retry_of: int | None = None) -> list[TaskSpec]:
        """The tasks that these ask for; raises `UsageError`, `NoHostsError`, `ScopeError`."""
        stem = f"{caller.token.id}:{key}" if key else uuid.uuid4().hex

        def specify(inventory: Inventory) -> list[TaskSpec]:
            return [self._specify(one, inventory, caller, f"{stem}:{number}", retry_of) for number, one in enumerate(asked)]

        return self.current.ask(specify)

    def _specify(self, asked: NewTask, inventory: Inventory, caller: Caller, key: str, retry_of: int | None) -> TaskSpec:
        if caller.scope is not None and retry_of is None:
            asked = _within(asked, caller, inventory)
        if asked.script_name and not asked.script_name.isprintable():
            raise UsageError("script_name: give a name of printable characters")
        if asked.credentials:
            check_name(asked.credentials)
        given = asked.model_dump()
        policy = read_rules(self.settings, **{name: given[name] for name in _RULES})
        check_limits(policy.forks, self.settings.connect_timeout if asked.connect_timeout is None else asked.connect_timeout)
        return TaskSpec(
            name=run_name(asked.command or asked.script_name or "script", asked.target),
            command=read_command(self.settings, **{name: given[name] for name in COMMAND}),
            target=asked.target,
            hosts=policy.choose([host.name for host in resolve(asked.target, inventory)]),
            policy=policy,
            options=options_of(given, _USUAL),
            retry_of=retry_of,
            created_by=caller.token.holder,
            request_key=key,
        )


def _within(asked: NewTask, caller: Caller, inventory: Inventory) -> NewTask:
    """What a token with a scope asks for, filled in from there."""
    scope = caller.scope
    assert scope is not None  # noqa: S101 - for mypy
    if more := sorted(asked.model_fields_set - _OF_SCOPE):
        raise ScopeError(f"this token may say target and command alone, not {', '.join(more)}")
    if asked.command not in {"", scope.command}:
        raise ScopeError("this token may run its own command alone; leave it out")
    if asked.target:
        allowed = {host.name for host in resolve(scope.target, inventory)}
        others = [host.name for host in resolve(asked.target, inventory) if host.name not in allowed]
        if others:
            raise ScopeError(f"this token is not for {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else ""))
    return NewTask(target=asked.target or scope.target, command=scope.command)
