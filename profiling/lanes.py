"""Rounds side by side: each lane is a process with a place of its own, and takes the next round that nobody has taken."""

import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

_SAY = 20.0  # seconds between two signs of life
_SHOWN = 20  # of what does not hold
_FORK = multiprocessing.get_context("fork")  # a lane has all that its part was given


@dataclass(frozen=True)
class Round:
    """One of a part's rounds; `chance` is its own, and comes out the same however many lanes there are."""

    number: int
    seed: str
    folder: Path

    @property
    def chance(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - moments


@dataclass(frozen=True)
class Trial:
    """What came of one thing that was tried; of how long it took the worst is shown."""

    verdicts: Counter[str]
    seconds: float
    found: Sequence[str] = ()
    stretch: float = 1.0


Place = AbstractContextManager[Callable[[Round], Iterable[Trial]]]


@dataclass
class Part:
    """So many rounds of a kind, in at most `lanes` lanes. `open` makes the place of a lane from its folder."""

    name: str
    what: str
    rounds: int
    lanes: int
    open: Callable[[Path], Place]
    tried: int = 0
    ended: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    stretch: float = 1.0
    found: list[str] = field(default_factory=list)

    def take(self, number: int, trial: Trial) -> None:
        self.tried += 1
        self.verdicts += trial.verdicts
        self.worst = max(self.worst, trial.seconds)
        self.stretch = max(self.stretch, trial.stretch)
        for text in trial.found:
            self.found.append(f"round {number}: {text}")
            print(f"  {self.what}: {self.found[-1]}", file=sys.stderr, flush=True)

    @property
    def line(self) -> str:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in self.verdicts.most_common())
        slower = f", machine up to {self.stretch:.1f} times slower than alone" if self.stretch > 1 else ""
        return f"{self.what:32}  {self.tried:5} tried  worst {self.worst:6.1f} s  {len(self.found):3} broken  {verdicts}{slower}"


class _Counting(Protocol):
    value: int

    def get_lock(self) -> AbstractContextManager[object]: ...


def run(parts: Sequence[Part], folder: Path, seed: int, only: int | None = None) -> Iterator[Part]:
    """Run all rounds of all parts side by side, or `only` this one of each; each part as it ends. Progress goes to stderr."""
    lanes: dict[Connection, tuple[Part, multiprocessing.process.BaseProcess]] = {}
    for part in parts:
        rounds = list(range(part.rounds)) if only is None else [only]
        taken = _FORK.Value("i", 0)
        for lane in range(min(part.lanes, len(rounds))):
            ours, theirs = _FORK.Pipe(duplex=False)
            place = folder / part.name / f"lane-{lane}"
            given = (part, place, [Round(number, f"{seed}/{part.name}/{number}", place / f"round-{number}") for number in rounds], taken)
            process = _FORK.Process(target=_lane, args=(*given, theirs, [ours, *lanes]))
            process.start()
            theirs.close()
            lanes[ours] = part, process
    said = began = time.monotonic()
    while lanes:
        for ready in wait(list(lanes), _SAY):
            part, process = lanes[ready]  # type: ignore[index]  # they are ours
            if not _hear(ready, part):  # type: ignore[arg-type]  # likewise
                process.join()
                del lanes[ready]  # type: ignore[arg-type]  # likewise
                if process.exitcode:
                    part.found.append(f"a lane ended with exit code {process.exitcode}")
                if part not in [other for other, _ in lanes.values()]:
                    yield part
        if lanes and time.monotonic() - said > _SAY:
            said = time.monotonic()
            _say(said - began, {id(part): part for part, _ in lanes.values()}.values())


def _hear(lane: Connection, part: Part) -> bool:
    """Take what a lane says; False once it has ended."""
    try:
        number, trial = lane.recv()
    except EOFError:
        return False
    if trial is None:
        part.ended += 1
    else:
        part.take(number, trial)
    return True


def _say(seconds: float, parts: Iterable[Part]) -> None:
    for part in parts:
        so_far = f"{part.ended} of {part.rounds} rounds, worst {part.worst:.1f} s, {len(part.found)} broken"
        print(f"  {seconds / 60:5.1f} min  {part.what}: {so_far}", file=sys.stderr, flush=True)


def _lane(part: Part, folder: Path, rounds: Sequence[Round], taken: _Counting, tell: Connection, others: Sequence[Connection]) -> None:
    """What a lane does. A round that breaks is told of, and the next one has a new place."""
    for other in others:
        other.close()
    opened = 0
    mine = next_of(rounds, taken)
    current = next(mine, None)
    while current is not None:
        try:
            with part.open(folder / f"place-{opened}") as place:
                while current is not None:
                    for trial in place(current):
                        tell.send((current.number, trial))
                    tell.send((current.number, None))
                    current = next(mine, None)
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            number = current.number if current is not None else -1
            tell.send((number, Trial(Counter({"broke": 1}), 0.0, [traceback.format_exc()])))
            current = next(mine, None)
        opened += 1


def next_of(rounds: Sequence[Round], taken: _Counting) -> Iterator[Round]:
    """The rounds that nobody else has taken."""
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(rounds):
            return
        yield rounds[index]


def show(parts: Iterable[Part]) -> bool:
    """Print each part as it ends; whether all held."""
    well = True
    for part in parts:
        print(part.line, flush=True)
        for text in part.found[:_SHOWN]:
            print(f"    {text}", flush=True)
        well = well and not part.found
    return well
