"""Secrets: `secret:NAME` is only a name until an executor sends the value."""

import os
from collections.abc import Mapping

from models.errors import SecretError
from models.values import Command

PREFIX = "secret:"


def reveal(env: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Replace each value `secret:NAME` by FLEETFLOW_SECRET_NAME of the worker's environment; raises `SecretError`."""
    return {key: _find(value.removeprefix(PREFIX), environ) if value.startswith(PREFIX) else value for key, value in env.items()}


def find_password(command: Command, default: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The password for sudo: the secret that the command names, else the setting's; raises `SecretError`."""
    if command.become is None or command.become_password is None:
        return default
    return _find(command.become_password.removeprefix(PREFIX), environ)


def _find(name: str, environ: Mapping[str, str]) -> str:
    try:
        return environ[f"FLEETFLOW_SECRET_{name}"]
    except KeyError:
        raise SecretError(name) from None
