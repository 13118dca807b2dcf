"""Says how a task ended: in one line, as a table, as a page."""

from collections.abc import Iterable, Sequence

from models.records import Execution, Task
from models.states import ExecutionState
from models.targets import fold

# In the order of how much they ask for attention.
_TROUBLE = (
    ExecutionState.LOST,
    ExecutionState.FAILED,
    ExecutionState.TIMED_OUT,
    ExecutionState.UNREACHABLE,
    ExecutionState.CANCELED,
    ExecutionState.RUNNING,
    ExecutionState.QUEUED,
    ExecutionState.PENDING,
)
_ORDER = {state: place for place, state in enumerate((*_TROUBLE, ExecutionState.SUCCEEDED))}
_NAMES = 200  # characters of host names in a sentence
TABLE_BYTES = 100 * 1024  # what Prefect's UI shows without effort


def sentence(task: Task, executions: Sequence[Execution]) -> str:
    """One line such as `3 of 100 hosts failed: web[3,7,9]`."""
    if task.counts[ExecutionState.SUCCEEDED] == task.hosts:
        return f"{count_hosts(task.hosts)} succeeded"
    parts = [_part(state, [execution.host for execution in executions if execution.state is state]) for state in _TROUBLE]
    found = [part for part in parts if part]
    first = f"{task.hosts - task.counts[ExecutionState.SUCCEEDED]} of {count_hosts(task.hosts)}"
    if len(found) == 1:
        return f"{first} {found[0][1]}: {found[0][2]}"
    return f"{first} did not succeed: " + "; ".join(f"{number} {word}: {names}" for number, word, names in found)


def _part(state: ExecutionState, hosts: list[str]) -> tuple[int, str, str] | None:
    if not hosts:
        return None
    names = fold(hosts)
    return len(hosts), _word(state, len(hosts)), names if len(names) <= _NAMES else names[: _NAMES - 1] + "…"


def _word(state: ExecutionState, number: int) -> str:
    verb = "was" if number == 1 else "were"
    words = {
        ExecutionState.TIMED_OUT: "timed out",
        ExecutionState.UNREACHABLE: f"{verb} unreachable",
        ExecutionState.LOST: f"{verb} lost",
        ExecutionState.CANCELED: f"{verb} canceled",
    }
    return words.get(state, state.value)


def count_hosts(number: int) -> str:
    """`1 host`, `100 hosts`."""
    return "1 host" if number == 1 else f"{number} hosts"


def rows(executions: Iterable[Execution]) -> list[dict[str, object]]:
    """A table of hosts, those that need attention first."""
    ordered = sorted(executions, key=lambda execution: (_ORDER[execution.state], execution.id))
    return [
        {
            "host": execution.host,
            "state": execution.state.value,
            "exit code": execution.exit_code,
            "seconds": None if execution.duration is None else round(execution.duration, 3),
            "error": execution.error,
        }
        for execution in ordered
    ]


def link(task: Task, hub_url: str | None) -> str:
    """`Task 42`, in Markdown, as a link to its page at this hub, where there is one."""
    return f"[Task {task.id}]({hub_url.rstrip('/')}/tasks/{task.id})" if hub_url else f"Task {task.id}"


def page(task: Task, executions: Sequence[Execution], hub_url: str | None, *, late: bool = False) -> str:
    """A task as a short Markdown page; `late`: hosts have told their ends after the task had its own, which stays."""
    told = ["", f"Hosts that were lost told their ends late; the task stays {task.state}, as it ended."] if late else []
    lines = [
        f"# Task {task.id}: {task.state}",
        "",
        sentence(task, executions),
        *told,
        "",
        "```sh",
        *_fenced(task.command.script),
        "```",
        "",
    ]
    lines += ["| state | hosts | names |", "| --- | ---: | --- |"]
    for state in reversed(_ORDER):
        hosts = [execution.host for execution in executions if execution.state is state]
        if hosts:
            lines.append(f"| {state} | {len(hosts)} | {fold(hosts).replace('|', chr(92) + '|')[:2000]} |")
    shown = f"{link(task, hub_url)} and `fleetflow task output {task.id}` show" if hub_url else f"`fleetflow task output {task.id}` shows"
    lines += ["", f"Target `{task.target}`. {shown} what the hosts printed."]
    return "\n".join(lines)


def _fenced(script: str) -> list[str]:
    return [line.replace("```", "'''") for line in script.splitlines()[:40]]
