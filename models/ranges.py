"""Ranges of host names as ClusterShell spells them: web[01-20], web[1,3-9/2], rack[1-4]-node[1-16]."""

import re
from collections.abc import Iterable, Iterator
from itertools import product

from ClusterShell.RangeSet import RangeSet, RangeSetException  # type: ignore[import-untyped]  # ClusterShell ships no types

LIMIT = 100_000  # host names that one target or inventory may stand for


class RangeError(ValueError):
    """A range that cannot be read, or stands for too many names; says why."""


def expand(pattern: str, limit: int = LIMIT) -> list[str]:
    """The names that a pattern stands for, in its own order; raises `RangeError` before it makes more than `limit` of them."""
    if "[" not in pattern and "]" not in pattern and limit > 0:
        return [pattern]
    pieces = list(_pieces(pattern))
    total = 1
    for is_range, text in pieces:
        total *= _count(text) if is_range else 1
        if total > limit:
            raise RangeError(f"more than {LIMIT:,} hosts")
    return ["".join(parts) for parts in product(*(_values(text) if is_range else [text] for is_range, text in pieces))]


def split(text: str) -> list[str]:
    """Cut at the commas that stand outside brackets."""
    return _OPERAND.findall(text + ",")


def fold(names: Iterable[str]) -> str:
    """One short label for many names: `db1,web[3,7,9]`. `expand` of its parts gives the names back."""
    rows = {tuple(_DIGITS.split(name)) if "[" not in name else (name,): None for name in sorted(set(names), key=natural)}
    folded = list(rows)
    for axis in range(max(map(len, folded), default=0) - 2, 0, -2):
        folded = _fold_axis(folded, axis)
    return ",".join("".join(parts) for parts in folded)


def natural(name: str) -> tuple[str, list[tuple[int, str]]]:
    """A key that sorts as ClusterShell does: names of one shape together, web2 before web10, web9 before web09."""
    parts = _DIGITS.split(name)
    return "%s".join(parts[::2]), [(len(digits), digits) for digits in parts[1::2]]


_DIGITS = re.compile(r"([0-9]+)")
_OPERAND = re.compile(r"((?:\[[^\[\]]*\]|[^,])*),")
_PIECE = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_ITEM = re.compile(r"([0-9]{1,255})(?:-([0-9]{1,255})(?:/([0-9]{1,9}))?)?")


def _pieces(pattern: str) -> Iterator[tuple[bool, str]]:
    """Cut into (is a range, text); an IPv6 address in brackets is no range."""
    at = 0
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            raise RangeError(
                "a bracket does not end; close it, as in web[1-9]" if pattern[at] == "[" else "a bracket ends that never began"
            )
        is_range = piece[1] is not None and ":" not in piece[1]
        yield is_range, piece[1] if is_range else piece[0]
        at = piece.end()


def _count(text: str) -> int:
    """How many numbers a range holds at most, without making them."""
    total = 0
    for item in text.split(","):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise _bad(text, "write numbers such as [1-9], [01-20/2] or [1,3,5]")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if last < first or step == 0:
            raise _bad(item, "it runs backwards" if step else "a step of 0")
        total += (last - first) // step + 1
    return total


def _bad(text: str, reason: str) -> RangeError:
    return RangeError(f"bad range {f'[{text[:40]}]'!r}: {reason}")


def _values(text: str) -> list[str]:
    try:
        return list(RangeSet(text).striter())
    except RangeSetException as error:
        raise _bad(text, str(error).split(" : ")[0]) from None


def _fold_axis(rows: list[tuple[str, ...]], axis: int) -> list[tuple[str, ...]]:
    """Put rows into one that differ in the number at `axis` alone."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        found.setdefault((*row[:axis], "", *row[axis + 1 :]) if axis < len(row) else row, []).append(row[axis] if axis < len(row) else "")
    return [row if axis >= len(row) else (*row[:axis], _fold_numbers(numbers), *row[axis + 1 :]) for row, numbers in found.items()]


def _fold_numbers(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"[{RangeSet.fromlist(numbers)}]"
