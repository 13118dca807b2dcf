"""Hosts of the inventory, and agents with what people decide about them."""

import itertools
import uuid
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request

from hub.api.roles import BASE, Caller, Known
from hub.api.shapes import AgentName, AgentPage, AgentShown, HostName, HostPage, HostShown, JoinToken, Limit, MadeToken, Word
from hub.enlister import Enlister
from hub.hub import Hub
from models import bells
from models.current import CurrentInventory
from models.errors import UsageError
from models.listing import Listing
from models.ranges import natural
from models.states import AgentState
from models.values import Host

router = APIRouter(prefix=BASE)


@router.get("/hosts", tags=["hosts"])
def list_hosts(
    request: Request,
    caller: Known,
    limit: Limit = 100,
    after: Annotated[Word, Query(description="Only hosts that come behind this name.")] = "",
    name: Annotated[Word, Query(description="A part of the host's name.")] = "",
    group: Word = "",
    tag: Annotated[Word, Query(description="KEY=VALUE")] = "",
) -> HostPage:
    """List the hosts of the inventory, by name."""
    del caller
    current: CurrentInventory = request.app.state.inventory
    inventory = current.get()
    if tag and not all(tag.partition("=")):
        raise UsageError(f"tag {tag[:60]!r}: write KEY=VALUE")
    begin = natural(after)
    fitting = (host for host in inventory.known() if natural(host.name) > begin and _fits(host, name, group, tag))
    found = list(itertools.islice(fitting, limit))
    return HostPage(items=[HostShown.of(host, inventory) for host in found], next=found[-1].name if len(found) == limit else None)


@router.get("/hosts/{host}", tags=["hosts"])
def show_host(request: Request, caller: Known, host: HostName) -> HostShown:
    """Show a host of the inventory."""
    del caller
    current: CurrentInventory = request.app.state.inventory
    inventory = current.get()
    return HostShown.of(inventory.find(host), inventory)


@router.get("/agents", tags=["agents"])
def list_agents(
    request: Request,
    caller: Known,
    limit: Limit = 100,
    after: Annotated[Word, Query(description="Only agents that come behind this one: the `next` of a page, or a name.")] = "",
    state: Annotated[list[AgentState] | None, Query(max_length=4)] = None,
) -> AgentPage:
    """List agents by name: those that are pending or approved, unless other states are asked for."""
    del caller
    listing: Listing = request.app.state.listing
    found = listing.agents(state or (AgentState.PENDING, AgentState.APPROVED), limit, *_place(after))
    last = f"{found[-1].name}/{found[-1].id}" if len(found) == limit else None
    return AgentPage(items=[AgentShown.of(agent) for agent in found], next=last)


@router.post("/agents/tokens", tags=["agents"], status_code=201)
def make_join_token(request: Request, caller: Known, asked: JoinToken | None = None) -> MadeToken:
    """Make a token with which hosts may join. It is told this once."""
    hub: Hub = request.app.state.hub
    asked = asked or JoinToken()
    return MadeToken(token=hub.agents.make_token(seconds=asked.expires, uses=asked.uses, approves=asked.approves, by=caller.actor))


def _decision(state: AgentState) -> Callable[[Request, Caller, str], AgentShown]:
    def decide(request: Request, caller: Known, name: AgentName) -> AgentShown:
        hub: Hub = request.app.state.hub
        (agent,) = hub.agents.decide([name], state, caller.actor)
        if state is AgentState.APPROVED:
            enlister: Enlister = hub.enlister
            enlister.add(agent.name)
        bells.ring(request.app.state.settings.home, bells.Kind.HUB)
        return AgentShown.of(agent)

    return decide


for _verb, _state, _summary in (
    ("approve", AgentState.APPROVED, "Let a pending agent take commands; it becomes a host of the inventory."),
    ("reject", AgentState.REJECTED, "Turn a pending agent away. The name is free again."),
    ("revoke", AgentState.REVOKED, "Shut an agent out, at once and for good. What it runs ends `lost`; the name is free again."),
):
    router.post(f"/agents/{{name}}/{_verb}", tags=["agents"], summary=_summary, operation_id=f"{_verb}_agent")(_decision(_state))


def _place(after: str) -> tuple[str, uuid.UUID | None]:
    name, has_id, agent = after.partition("/")
    try:
        return name, uuid.UUID(agent) if has_id else None
    except ValueError:
        raise UsageError(f"after {after[:60]!r}: give the `next` of a page, or a name") from None


def _fits(host: Host, name: str, group: str, tag: str) -> bool:
    key, _, value = tag.partition("=")
    return name in host.name and (not group or group in host.groups) and (not tag or host.tags.get(key) == value)
