"""The fleet: hosts and agents by state, found by name, group, tag and fact; and one of them."""

from collections import Counter

from starlette.responses import Response

from hub.pages import text
from hub.pages.visits import Visit
from models.errors import NotFoundError, UsageError
from models.fleet import STATES
from models.ranges import natural
from models.views import HISTORY

_HOSTS = 100  # of a page
_RAN = 20  # tasks of a host
_BYTES = frozenset({"mem_total", "mem_free", "disk_free"})  # of what agents tell


def show_fleet(visit: Visit) -> Response:
    """The hosts that a search finds, by name."""
    search, state, after = visit.word("q"), visit.word("state"), visit.word("after")
    if state and state not in STATES:
        raise UsageError(f"state: give one of {', '.join(STATES)}")
    found = visit.fleet.members(search, visit.now)
    counts = Counter(member.state for member in found)
    listed = [member for member in found if state in {"", member.state}]
    if after:
        place = natural(after)
        listed = [member for member in listed if natural(member.name) > place]
    shown = listed[:_HOSTS]
    return visit.render(
        "fleet.html",
        members=shown,
        facts=visit.fleet.facts([member.name for member in shown]),
        counts=[(known, counts[known]) for known in STATES if counts[known]],
        total=len(found),
        search=search,
        state=state,
        after=after,
        next=shown[-1].name if len(listed) > _HOSTS else None,
        trouble=visit.fleet.trouble(),
    )


def show_host(visit: Visit) -> Response:
    """One host: how it is reached, what its agent tells, and what ran there last."""
    name: str = visit.request.path_params["host"]
    found = visit.fleet.member(name, visit.now)
    if found is None:
        raise NotFoundError("host", text.inert(name[:100]))
    member, agent = found
    return visit.render(
        "host.html",
        member=member,
        agent=agent,
        source=visit.fleet.source(name) if member.host else "",
        facts=_words(agent.facts) if agent else [],
        telemetry=_words(agent.telemetry) if agent else [],
        ran=visit.views.history(name, _RAN),
        looked=HISTORY,
    )


def _words(told: object) -> list[tuple[str, str]]:
    """What an agent tells, for people; it may tell anything."""
    pairs = told.items() if isinstance(told, dict) else ()
    return [(str(key), _word(str(key), value)) for key, value in pairs]


def _word(key: str, value: object) -> str:
    if isinstance(value, int | float) and key in _BYTES:
        return text.size(value)
    if isinstance(value, int | float) and key == "uptime":
        return text.span(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
