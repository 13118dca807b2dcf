"""Reads the credentials that hosts and tasks name from Prefect's blocks, once a flow run: the next one sees what has changed."""

import asyncio
from dataclasses import replace
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from flows.blocks import SshCredentials
from flows.patience import patiently
from flows.request import Options, Request
from models import names
from models.credentials import Credentials
from models.errors import CredentialsError
from models.hostsfile import is_jump
from models.inventory import Inventory
from models.settings import Settings
from models.values import ExecutorKind, Host

_Found = dict[str, Credentials | CredentialsError]
_TYPE = SshCredentials.get_block_type_slug()


async def require(name: str) -> Credentials | None:
    """What a block of this name says; raises `CredentialsError` unless it can be used.

    A flow run that goes on is not refused any more: it may have commands on hosts, which want to be followed. Then this is None.
    """
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and context.flow_run.run_count > 1:
        return None
    found = await _find(name)
    if isinstance(found, CredentialsError):
        raise found
    return found


async def reveal(request: Request, settings: Settings) -> Request:
    """The request with the login of each host that is reached by SSH and has credentials; or with the reason why it has none."""
    wanted = sorted({host.credentials for host in request.hosts if host.credentials and _is_over_ssh(host)})
    found: _Found = {request.login.name: request.login} if request.login is not None else {}
    missing = [name for name in wanted if name not in found]
    found |= zip(missing, await asyncio.gather(*map(_find, missing)), strict=True)
    if any(isinstance(login, Credentials) and login.jump is not None for login in found.values()):
        found = await asyncio.to_thread(_with_jumps, found, settings)
    return replace(request, hosts=tuple(_with_login(host, found, request.reach) for host in request.hosts)) if found else request


def _is_over_ssh(host: Host) -> bool:
    return host.executor in {None, ExecutorKind.SSH}


def _with_jumps(found: _Found, settings: Settings) -> _Found:
    """The logins, their jump hosts by the addresses that the inventory has for them."""
    inventory = Inventory.load(settings.home, settings.ssh_config.expanduser())
    return {name: _with_jump(login, inventory) for name, login in found.items()}


def _with_jump(login: Credentials | CredentialsError, inventory: Inventory) -> Credentials | CredentialsError:
    if not isinstance(login, Credentials) or login.jump is None:
        return login
    return replace(login, jump=inventory.spell_jump(login.jump))


def _with_login(host: Host, found: _Found, reach: Options) -> Host:
    """The host with its login: credentials of the task win over the inventory; those of the inventory complete what it says besides."""
    login = found.get(host.credentials or "")
    if not isinstance(login, Credentials):
        return replace(host, login=login)
    if reach.credentials is None:
        return replace(host, login=login, user=host.user or login.user)
    spelled = names.parse(host.name).user
    return replace(host, login=login, user=reach.user or spelled or login.user or host.user, jump=host.jump if login.jump is None else None)


async def _find(name: str) -> Credentials | CredentialsError:
    async with get_client() as client:
        data = await patiently(lambda: _read(client, name))
        if data is None:
            other = await patiently(lambda: _other_type(client, name))
            return CredentialsError(name, _MISSING if other is None else f"the block of this name is of the type {other}; {_MAKE}")
    return understood(name, data)


_MAKE = "make one of the type fleetflow SSH credentials in Prefect's UI"
_MISSING = f"there is no block of this name; {_MAKE}"


async def _read(client: PrefectClient, name: str) -> dict[str, Any] | None:
    try:
        return (await client.read_block_document_by_name(name, _TYPE, include_secrets=True)).data
    except ObjectNotFound:
        return None


async def _other_type(client: PrefectClient, name: str) -> str | None:
    """The type of a block that has this name and is of no use to us."""
    answer = await client.request("POST", "/block_documents/filter", json={"block_documents": {"name": {"any_": [name]}}, "limit": 1})
    return next((str(document["block_type"]["name"]) for document in answer.json()), None)


def understood(name: str, data: dict[str, Any]) -> Credentials | CredentialsError:
    """What a block says; why it cannot be used names its fields, and none of its values."""
    try:
        found = SshCredentials.model_validate(data).named(name)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        return CredentialsError(name, f"its {first['loc'][0]} cannot be read: {first['msg']}")
    if found.key is None and found.password is None:
        return CredentialsError(name, "it holds neither a key nor a password")
    if found.user is not None and not names.USER.fullmatch(found.user):
        return CredentialsError(name, "its user is not a user name")  # which is not shown: it may be a secret in the wrong field
    if found.jump is not None and not is_jump(found.jump):
        return CredentialsError(name, "its jump host is not [user@]host[:port], several with commas")
    return found
