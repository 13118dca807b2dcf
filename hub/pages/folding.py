"""Equal outputs of the hosts of one page, together: by what they begin with, since nobody reads a gigabyte to show a screen."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from hub.pages import text
from models.ranges import fold as fold_names
from models.records import Execution
from models.states import ExecutionState
from models.values import Stream
from models.views import ATTENTION, Head, Views

_SHOWN = 128 * 1024  # characters of all groups together
_NAMES = 300  # characters of a group's hosts


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts that ended alike and printed the same, as far as it was read."""

    key: str
    names: str
    hosts: Sequence[Execution]
    why: str
    state: ExecutionState
    stdout: str
    stderr: str
    size: int  # bytes that each of them printed
    is_whole: bool  # what stands here is all of it
    is_shown: bool  # False where the page is full

    @property
    def first(self) -> Execution:
        return self.hosts[0]

    @property
    def is_empty(self) -> bool:
        return not self.size


def fold(views: Views, executions: Sequence[Execution]) -> list[Group]:
    """The groups of these hosts: what went wrong first, then the largest."""
    heads = views.heads(execution.attempt_id for execution in executions if execution.attempt_id is not None)
    found: dict[tuple[object, ...], list[Execution]] = {}
    for execution in executions:
        head = heads.get(execution.attempt_id or 0) or Head()
        if execution.state.is_final or any(head.sizes.values()):
            key = (execution.state, text.why(execution), *head.data.values(), *head.sizes.values())
            found.setdefault(key, []).append(execution)
    ordered = sorted(found.values(), key=lambda hosts: (ATTENTION.index(hosts[0].state), -len(hosts)))
    room, groups = _SHOWN, []
    for hosts in ordered:
        group = _group(hosts, heads.get(hosts[0].attempt_id or 0) or Head(), room)
        room -= len(group.stdout) + len(group.stderr)
        groups.append(group)
    return groups


def _group(hosts: Sequence[Execution], head: Head, room: int) -> Group:
    names = fold_names(execution.host for execution in hosts)
    shown = {stream: text.decoded(head.data[stream]) for stream in Stream}
    fits = sum(map(len, shown.values())) <= room
    return Group(
        key=hashlib.sha256(repr((hosts[0].state, text.why(hosts[0]), head)).encode()).hexdigest()[:16],
        names=names if len(names) <= _NAMES else names[:_NAMES] + "…",
        hosts=hosts,
        why=text.why(hosts[0]),
        state=hosts[0].state,
        stdout=shown[Stream.STDOUT] if fits else "",
        stderr=shown[Stream.STDERR] if fits else "",
        size=sum(head.sizes.values()),
        is_whole=head.is_whole,
        is_shown=fits,
    )
