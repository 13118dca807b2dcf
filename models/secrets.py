"""Secrets: `secret:NAME` is only a name until an executor sends the value."""

import os
from collections.abc import Mapping

from models.errors import SecretError
from models.values import Command

PREFIX = "secret:"


class Revealed(str):
    """The value of a secret, on its way to an executor; it does not show in anybody's `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def names(env: Mapping[str, str]) -> set[str]:
    """The names of the secrets that are still to be revealed."""
    return {value.removeprefix(PREFIX) for value in env.values() if _is_name(value)}


def fill(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Put in the values that are known by their names; the others stay names."""
    return {
        key: Revealed(values[value.removeprefix(PREFIX)]) if _is_name(value) and value.removeprefix(PREFIX) in values else value
        for key, value in env.items()
    }


def values_of(env: Mapping[str, str]) -> list[str]:
    """The secret values in an environment that has been filled: what must be shown nowhere."""
    return [str(value) for value in env.values() if isinstance(value, Revealed)]


def in_environment(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The value that the worker's environment has for a secret."""
    return environ.get(f"FLEETFLOW_SECRET_{name}")


def reveal(env: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Replace each value `secret:NAME` by FLEETFLOW_SECRET_NAME of the worker's environment; raises `SecretError`."""
    return {key: _find(value.removeprefix(PREFIX), environ) if _is_name(value) else str(value) for key, value in env.items()}


def _is_name(value: str) -> bool:
    return value.startswith(PREFIX) and not isinstance(value, Revealed)


def find_password(command: Command, default: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The password for sudo: the secret that the command names, else the setting's; raises `SecretError`."""
    if command.become is None or command.become_password is None:
        return default
    return _find(command.become_password.removeprefix(PREFIX), environ)


def _find(name: str, environ: Mapping[str, str]) -> str:
    value = in_environment(name, environ)
    if value is None:
        raise SecretError(name)
    return value
