"""The list of tasks, and a task with its hosts, failures first."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from hub.pages import folding, text
from hub.pages.answers import go, nothing
from hub.pages.visits import Visit
from models.commands import describe
from models.errors import UsageError
from models.records import Approval, Execution, TaskLine
from models.states import ExecutionState, TaskState
from models.views import ATTENTION, SCAN, Place

_LINES = 50  # tasks of a page
_HOSTS = 100  # hosts of a page
_SCRIPT = 16 * 1024  # characters of a command that are shown
_WIDTH = 1000  # of the bar
_SLIVER = 6  # of it, that a state with any host has at least


@dataclass(frozen=True, slots=True)
class Slice:
    """A state's part of the bar."""

    state: ExecutionState
    number: int
    x: float
    width: float


def home(visit: Visit) -> Response:
    """Where people come in."""
    del visit
    return go("/tasks")


def show_tasks(visit: Visit) -> Response:
    """The newest tasks."""
    state = visit.one_of("state", TaskState)
    found = visit.views.lines(_LINES, before=visit.number("before"), state=state, theirs=visit.token if visit.is_scoped else None)
    return visit.render(
        "tasks.html",
        lines=[(line, slices(line)) for line in found.lines],
        older=found.older,
        before=visit.number("before"),
        state=state,
        states=TaskState,
        is_filtered=state is not None or visit.is_scoped,
        scan=SCAN,
    )


def show_task(visit: Visit) -> Response:
    """A task; or of one that runs a part, where it is not what the browser has `seen`."""
    number: int = visit.request.path_params["number"]
    match visit.word("part"):
        case "progress":
            return _show_progress(visit, number)
        case "hosts":
            return _show_hosts(visit, number)
        case "folded":
            line = visit.line(number)
            groups = folding.fold(visit.views, _shown_hosts(visit, number)[0])
            return visit.render("parts/folded.html", line=line, groups=groups, is_live=not line.is_final)
        case "":
            return _show_whole(visit, number)
        case other:
            raise UsageError(f"part {text.inert(other)}: there is no such part")


def _show_whole(visit: Visit, number: int) -> Response:
    task, line = visit.task(number), visit.line(number)
    script = task.command.script
    hosts, more = _shown_hosts(visit, number)
    return visit.render(
        "task.html",
        task=task,
        script=script[:_SCRIPT],
        script_left=max(0, len(script) - _SCRIPT),
        reader=describe(task.command) if task.command.interpreter else "",
        groups=folding.fold(visit.views, hosts),
        line=line,
        is_live=not line.is_final,
        **_progress(line, visit.views.approvals(number)),
        **_hosts(visit, line, hosts, more=more),
    )


def _show_progress(visit: Visit, number: int) -> Response:
    line = visit.line(number)
    values = _progress(line, visit.views.approvals(number))
    if values["seen"] == visit.word("seen"):
        return nothing()
    return visit.render("parts/progress.html", line=line, is_live=not line.is_final, **values)


def _show_hosts(visit: Visit, number: int) -> Response:
    line = visit.line(number)
    if _mark(line) == visit.word("seen"):
        return nothing()
    hosts, more = _shown_hosts(visit, number)
    return visit.render("parts/hosts.html", line=line, is_live=not line.is_final, **_hosts(visit, line, hosts, more=more))


def _progress(line: TaskLine, approvals: Sequence[Approval]) -> dict[str, Any]:
    return {"slices": slices(line), "approvals": approvals, "say": _say(line), "seen": _mark(line, approvals)}


def _hosts(visit: Visit, line: TaskLine, hosts: Sequence[Execution], *, more: bool) -> dict[str, Any]:
    return {
        "hosts": hosts,
        "next": f"{hosts[-1].state}:{hosts[-1].host}" if more else None,
        "after": visit.word("after"),
        "state": visit.one_of("state", ExecutionState),
        "find": visit.word("find"),
        "counts": [(state, line.counts[state]) for state in ATTENTION if line.counts[state]],
        "has_tries": any(execution.attempt > 1 for execution in hosts),
        "has_waves": any(execution.wave > 1 for execution in hosts),
        "marked": _mark(line),
    }


def _shown_hosts(visit: Visit, number: int) -> tuple[list[Execution], bool]:
    """The executions of the page that is looked at, and whether there are more."""
    found = visit.views.hosts(
        number, _HOSTS + 1, after=_place(visit.word("after")), state=visit.one_of("state", ExecutionState), find=visit.word("find")
    )
    return found[:_HOSTS], len(found) > _HOSTS


def _place(said: str) -> Place | None:
    if not said:
        return None
    state, _, host = said.partition(":")
    if state not in set(ExecutionState):
        raise UsageError("after: give STATE:HOST, as the link to the next page does")
    return Place(ExecutionState(state), host)


def _mark(line: TaskLine, approvals: Sequence[Approval] = ()) -> str:
    """Changes when a page of the task looks otherwise."""
    return hashlib.sha256(repr((line, approvals)).encode()).hexdigest()[:16]


def slices(line: TaskLine) -> list[Slice]:
    """The bar of a task: what has ended from the left, what went wrong first."""
    widths = {state: max(_SLIVER, _WIDTH * line.counts[state] / line.hosts) for state in _BAR if line.counts[state]}
    scale, x, found = _WIDTH / (sum(widths.values()) or 1), 0.0, []
    for state, width in widths.items():
        found.append(Slice(state, line.counts[state], round(x, 1), round(width * scale, 1)))
        x += width * scale
    return found


_ENDED = tuple(state for state in ATTENTION if state.is_final and state is not ExecutionState.SUCCEEDED)
_BAR = (*_ENDED, ExecutionState.SUCCEEDED, ExecutionState.RUNNING, ExecutionState.QUEUED, ExecutionState.PENDING)


def _say(line: TaskLine) -> str:
    """What is read out to who does not see the bar: in steps of 10 %, since it interrupts."""
    wrong = [f"{line.counts[state]} {state.replace('_', ' ')}" for state in _ENDED if line.counts[state]]
    how_far = f"{line.done * 10 // line.hosts * 10} % of {text.hosts(line.hosts)} done" if line.hosts else "no hosts"
    return ", ".join([f"task {line.id} {line.state}: {how_far}", *wrong])
