"""Measures things in turn, A B A B, so that a machine whose speed drifts is fair to both."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One line of the benchmark's table. `ratio` is ours to the peer's, round by round, the median of it."""

    what: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    expected: str
    met: bool


def in_turn(rounds: int, *runs: Callable[[], float]) -> list[list[float]]:
    """Call each of `runs` once a round; returns the figures of each, after a round that does not count."""
    for run in runs:
        run()
    figures: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for figure, run in zip(figures, runs, strict=True):
            figure.append(run())
    return figures


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios, round by round."""
    return median(our / their for our, their in zip(ours, theirs, strict=True))


def compare(
    what: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], expected: str, met: Callable[[float, float], bool]
) -> Row:
    """A row; `met` is asked with our median and the ratio."""
    quotient = ratio(ours, theirs)
    return Row(what, unit, median(ours), peer, median(theirs), quotient, expected, met(median(ours), quotient))


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    head = ("what", "ours", "beside", "theirs", "ratio", "expected", "")
    lines = [
        (r.what, f"{r.ours:,.4g} {r.unit}", r.peer, f"{r.theirs:,.4g}", f"{r.ratio:.2f}", r.expected, "" if r.met else "SHORT")
        for r in rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    for line in [head, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(rows: Sequence[Row]) -> str:
    """The table for programs."""
    return json.dumps([asdict(row) for row in rows], indent=2)
