"""Turns the flat parameters of a flow run into the values that the rest of the house works with."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.credentials import Credentials, check_name
from models.inventory import Inventory
from models.parameters import options_of
from models.policy import Policy
from models.settings import Settings
from models.targets import resolve
from models.values import Command, ExecutorKind, Host, HostKeyPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One command on resolved hosts, and the limits of the run."""

    name: str
    command: Command
    target: str
    hosts: tuple[Host, ...]
    connect_timeout: float  # seconds
    policy: Policy
    options: Mapping[str, Any] = field(default_factory=dict)  # see `options_given`
    retry_of: int | None = None  # the task whose hosts these are
    task: int | None = None  # the one that was opened for this run before it began
    created_by: str | None = None
    login: Credentials | None = None  # of the run's own credentials, where they have been read already
    reach: "Options"  # as far as the run itself says how hosts are reached; applied to `hosts` already
    confirm_waves: bool = False  # people are asked between two waves
    connect_timeout_is_default: bool = False  # then the host's ConnectTimeout in ~/.ssh/config holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How hosts are reached, as far as the run itself says so; it wins over the inventory."""

    executor: ExecutorKind | None = None
    user: str | None = None
    identity: Path | None = None
    host_key: HostKeyPolicy | None = None
    credentials: str | None = None
    connect_timeout: float | None = None  # seconds

    def applied(self, host: Host) -> Host:
        return replace(
            host,
            executor=self.executor or host.executor,
            user=self.user or host.user,
            identity=self.identity or (None if self.credentials else host.identity),
            host_key=self.host_key or host.host_key,
            credentials=self.credentials or host.credentials,
            connect_timeout=self.connect_timeout,
        )


def resolve_hosts(target: str, options: Options, settings: Settings) -> tuple[Host, ...]:
    """The hosts of a target, with the run's options applied; raises `TargetError`, `InventoryError` or `NoHostsError`."""
    inventory = Inventory.load(settings.home, settings.ssh_config.expanduser())
    return tuple(options.applied(host) for host in resolve(target, inventory))


def read_options(executor: str, user: str, identity: str, host_key: str, credentials: str, connect_timeout: float | None) -> Options:
    """The options that the flow's parameters of the same names stand for; raises `UsageError`."""
    if credentials:
        check_name(credentials)
    return Options(
        executor=None if executor == "auto" else ExecutorKind(executor),
        user=user or None,
        identity=Path(identity).expanduser() if identity else None,
        host_key=None if host_key == "configured" else HostKeyPolicy(host_key),
        credentials=credentials or None,
        connect_timeout=connect_timeout,
    )


def options_given(flow: Callable[..., object], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a flow run that are not as usual."""
    usual = {name: parameter.default for name, parameter in inspect.signature(flow).parameters.items()}
    return options_of({name: value for name, value in parameters.items() if name in usual}, usual)
