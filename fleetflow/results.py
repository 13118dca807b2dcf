"""Prints results: JSON lines, lines behind their host's name, or equal results folded together."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

from fleetflow.text import inert, lines

if TYPE_CHECKING:
    from models.rows import Row

Write = Callable[[str], None]


def to_stdout(line: str) -> None:
    """Print a line. A reader that has had enough (`| head -1`) takes nothing from the task, nor from our exit code."""
    try:
        typer.echo(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def to_stderr(line: str) -> None:
    typer.echo(line, err=True)


class Printer:
    """Takes results as hosts end. Folding needs them all: it prints at `finish`."""

    def __init__(self, *, fold: bool, as_json: bool) -> None:
        self._fold = fold
        self.as_json = as_json
        self._kept: list[Row] = []
        self._out: Write = to_stdout
        self._err: Write = to_stderr

    def go_through(self, out: Write, err: Write) -> None:
        """Write by these from now on: a progress bar must step aside for each line."""
        self._out, self._err = out, err

    def say(self, line: str) -> None:
        """Say something that is no result."""
        self._err(line)

    def take(self, row: "Row") -> None:
        if self.as_json:
            self._out(json.dumps(row))
        elif self._fold:
            self._kept.append(row)
        else:
            print_lines(row, self._out, self._err)

    def finish(self) -> None:
        print_folded(self._kept, self._out)


def print_lines(row: "Row", out: Write, err: Write) -> None:
    """Print each line of a host behind its name."""
    host = inert(row["host"])
    for line in lines(row["stdout"]):
        out(f"{host}: {line}")
    for line in lines(row["stderr"]):
        err(f"{host}: {line}")
    problem = trouble(row)
    if problem:
        err(f"{host}: {problem}")


def print_folded(rows: Iterable["Row"], out: Write) -> None:
    """Print equal results together, under the folded names of their hosts, the largest group first."""
    from models.targets import fold

    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        problem = trouble(row)
        key = (*lines(row["stdout"]), *lines(row["stderr"]), *((f"[{problem}]",) if problem else ())) or ("[no output]",)
        groups[key].append(row["host"])
    for key, hosts in sorted(groups.items(), key=lambda group: -len(group[1])):
        label = f"{inert(fold(hosts))} ({len(hosts)})" if len(hosts) > 1 else inert(hosts[0])
        rule = "-" * min(len(label), 60)
        for line in (rule, label, rule, *key):
            out(line)


def trouble(row: "Row") -> str | None:
    """One line on a host that did not succeed."""
    code = row["exit_code"]
    if row["state"] == "succeeded":
        return None
    if code is not None:
        return f"failed: exit code {code}{_signal(code)}"
    state, error = str(row["state"]), inert(row["error"] or "")
    if error.startswith(state.replace("_", " ")):
        return error
    return f"{state}: {error}" if error else state


def _signal(code: int) -> str:
    import signal

    try:
        return f" ({signal.Signals(code - 128).name})"
    except ValueError:
        return ""
