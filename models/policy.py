"""How a task goes over its hosts: in which order and waves, how many at a time, when it stops, and what is tried again."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from random import SystemRandom
from typing import Any

from models.commands import check_seconds
from models.errors import UsageError

_RANDOM = SystemRandom()
_AMOUNT = re.compile(r"([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]{1,6})?)[ ]?%", re.ASCII)
_WAVES = 100  # a wave costs the task a round of its slowest hosts
_RETRIES = 100
_LONGEST = 3600.0  # seconds to which doubling takes a delay; one that is longer from the start stays as it is
_JITTER = 0.25  # of a delay, to either side: hosts that failed together do not come back together


class Order(StrEnum):
    """The order in which the hosts of a task have their turn."""

    LISTED = "listed"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of hosts, or per cents of the task's hosts."""

    number: float
    is_percent: bool = False

    def __str__(self) -> str:
        return f"{self.number:g}%" if self.is_percent else f"{self.number:.0f}"

    def rounded_up(self, hosts: int) -> int:
        """At least one host, and no more than there are: what a wave reaches."""
        return max(1, min(hosts, math.ceil(self._exact(hosts))))

    def rounded_down(self, hosts: int) -> int:
        """The hosts that are within the amount: what a limit allows."""
        return min(hosts, math.floor(self._exact(hosts)))

    def _exact(self, hosts: int) -> float:
        return round(self.number * hosts / 100, 9) if self.is_percent else self.number


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The rules of one task. `waves` are cumulative: 1 host, then up to 10 % of them, then all."""

    waves: tuple[Amount, ...] = ()
    wave_pause: float = 0  # seconds between two waves
    max_failures: Amount | None = None  # hosts that may go wrong before no further one is started; None: all of them
    ignore_unreachable: bool = False  # unreachable hosts do not count against max_failures
    retries: int = 0  # further tries of a host that failed or was unreachable
    retry_delay: float = 5  # seconds before the second try; doubled for each one after it
    deadline: float | None = None  # seconds from the task's start
    forks: int = 100  # hosts at the same time
    order: Order = Order.LISTED
    pick: int | None = None  # as many hosts of the target, chosen at random; None: all

    def __post_init__(self) -> None:
        check_waves(self.waves)
        _check_number("wave_pause", self.wave_pause, "seconds, 0 for none")
        _check_number("retries", self.retries, f"the number of further tries, at most {_RETRIES}", most=_RETRIES)
        check_seconds("retry_delay", self.retry_delay)
        check_seconds("deadline", self.deadline)
        _check_number("forks", self.forks, "at least 1", least=1)
        if self.pick is not None:
            _check_number("pick", self.pick, "a number of hosts, at least 1", least=1)

    def choose(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """The hosts that the task runs on, in the order of their turns."""
        places: Sequence[int] = range(len(hosts))
        if self.pick is not None and self.pick < len(hosts):
            places = sorted(_RANDOM.sample(places, self.pick))
        if self.order is Order.SHUFFLED:
            places = _RANDOM.sample(places, len(places))
        return tuple(hosts[place] for place in places)

    def wave_ends(self, hosts: int) -> list[int]:
        """How many hosts have had their turn after each wave; the last number is all of them."""
        ends: list[int] = []
        for end in (*(wave.rounded_up(hosts) for wave in self.waves), hosts):
            if not ends or end > ends[-1]:  # a wave that adds nobody in so small a task is none
                ends.append(end)
        return ends

    def allowed(self, hosts: int) -> int | None:
        """How many hosts may go wrong before no further one is started; None: any number."""
        return None if self.max_failures is None else self.max_failures.rounded_down(hosts)

    def delays(self) -> Iterator[float]:
        """Seconds to wait before each further try."""
        longest = max(_LONGEST, self.retry_delay)
        for doubled in range(self.retries):
            yield min(longest, self.retry_delay * 2.0**doubled) * _RANDOM.uniform(1 - _JITTER, 1 + _JITTER)

    def as_dict(self) -> dict[str, Any]:
        """What is not as usual, as JSON takes it."""
        return {field.name: _plain(value) for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> "Policy":
        return read_policy(**kept)

    def describe(self) -> str:
        """The rules in one line, for people."""
        return ", ".join(self._rules())

    def _rules(self) -> Iterator[str]:
        if self.waves:
            pause = f" with {self.wave_pause:g} s between them" if self.wave_pause else ""
            yield f"waves {_joined(self.waves)}{pause}"
        if self.max_failures is not None:
            yield f"max failures {self.max_failures}" + (", unreachable hosts aside" if self.ignore_unreachable else "")
        if self.retries:
            yield f"retries {self.retries} after {self.retry_delay:g} s"
        if self.deadline is not None:
            yield f"deadline {self.deadline:g} s"
        if self.pick is not None:
            yield f"pick {self.pick}"
        if self.order is Order.SHUFFLED:
            yield "shuffled"
        yield f"forks {self.forks}"


def read_policy(
    *, waves: str = "", max_failures: str = "", order: str = Order.LISTED.value, pick: int | None = None, **numbers: Any
) -> Policy:
    """A policy from what people type: `waves` as `1,10%,100%`, `max_failures` as `5` or `5%`; raises `UsageError`."""
    return Policy(
        waves=read_waves(waves),
        max_failures=read_amount("max_failures", max_failures) if max_failures.strip() else None,
        order=Order(order),
        pick=pick,
        **numbers,
    )


def read_waves(text: str) -> tuple[Amount, ...]:
    """Read `1,10%,100%`; nothing is no waves. Raises `UsageError`."""
    waves = tuple(read_amount("waves", part) for part in text.split(",")) if text.strip() else ()
    check_waves(waves)
    return waves


def read_amount(name: str, text: str) -> Amount:
    """Read `5` or `5%`; raises `UsageError`."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        example = "1,10%,100%: hosts or per cents, with commas" if name == "waves" else "5 (hosts) or 5% (of the task's hosts)"
        raise UsageError(f"{name} {text[:40]!r}: write {example}")
    amount = Amount(int(found[1])) if found[1] else Amount(float(found[2]), is_percent=True)
    if amount.is_percent and amount.number > 100:
        raise UsageError(f"{name} {text.strip()!r}: 100% is all of the task's hosts; write at most that")
    return amount


def check_waves(waves: Sequence[Amount]) -> None:
    """Raise `UsageError` unless each wave reaches further than the one before it."""
    if len(waves) > _WAVES:
        raise UsageError(f"waves: {len(waves)} of them; write at most {_WAVES}")
    for wave in waves:
        if wave.number <= 0:
            raise UsageError(f"waves {_joined(waves)!r}: {wave} reaches no host; write sizes over 0, such as 1,10%,100%")
    for kind in (True, False):
        numbers = [wave.number for wave in waves if wave.is_percent is kind]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            raise UsageError(f"waves {_joined(waves)!r}: sizes count from the first host on; write ones that grow, such as 1,10%,100%")


def _check_number(name: str, number: float, what: str, *, least: float = 0, most: float = math.inf) -> None:
    if not (least <= number <= most and math.isfinite(number)):
        raise UsageError(f"{name} {number:g}: give {what}")


def _joined(waves: Sequence[Amount]) -> str:
    return ",".join(map(str, waves))


def _plain(value: Any) -> Any:
    match value:
        case tuple():
            return _joined(value)
        case Amount():
            return str(value)
        case Order():
            return value.value
        case _:
            return value


USUAL = Policy()
