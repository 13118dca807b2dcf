"""Finds the values of secrets: in the worker's environment, else in Prefect's Secret blocks. They are read anew for each task."""

import json
import re
from dataclasses import replace

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flows.patience import patiently
from flows.request import Request
from models import secrets

_BLOCK = re.compile(r"[a-z0-9-]+")  # what Prefect lets a block be called


async def reveal(request: Request) -> Request:
    """The request with the secrets of its environment filled in; what nobody knows stays a name, which no executor sends."""
    found = {name: await _find(name) for name in sorted(secrets.names(request.command.env))}
    known = {name: value for name, value in found.items() if value is not None}
    return replace(request, command=replace(request.command, env=secrets.fill(request.command.env, known)))


async def _find(name: str) -> str | None:
    value = secrets.in_environment(name)
    return await patiently(lambda: _read_block(name)) if value is None and _BLOCK.fullmatch(name) else value


async def _read_block(name: str) -> str | None:
    """The value of a Secret block; one that is not text, as its JSON."""
    async with get_client() as client:
        try:
            document = await client.read_block_document_by_name(name, "secret", include_secrets=True)
        except ObjectNotFound:
            return None
    value = document.data.get("value")
    return value if isinstance(value, str) else json.dumps(value)
