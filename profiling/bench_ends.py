"""How soon a task has its end: after its worker was killed, and after a cancel until the last process is gone.

Each round's hosts say what has really happened; a round in which something does not hold ends the benchmark.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from side_by_side import Row, show

from tests.dying import death_of_a_worker
from tests.servers.sshd import at_home, run_sshd
from tests.stacks import Stack, marked, new_word, run_stack
from tests.until import until

DEATHS = 30
DYING = 50  # hosts
CANCELS = 50
CANCELED = 20  # hosts
STACKS = 3


def _death(stack: Stack, folder: Path, after: float) -> float:
    death = death_of_a_worker(stack, folder, DYING, after)
    assert not death.found, death.found
    return death.took


def _cancel(stack: Stack) -> float:
    """Seconds from Prefect's Cancelling until no process of the task is left on any host."""
    word = new_word()
    run = stack.create_run(command="sleep 300 & sleep 300", target=f"127.9.0.[1-{CANCELED}]", env=[f"WORD={word}"])
    until(lambda: len(marked(word)) >= 3 * CANCELED, 60, "the commands to run", every=0.2)
    began = time.monotonic()
    stack.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: not marked(word), 60, "the end of all processes", every=0.05)
    took = time.monotonic() - began
    assert stack.ended(run)["state"]["type"] == "CANCELLED"
    return took


def _row(what: str, seconds: float, expected: float) -> Row:
    return Row(what, "s", seconds, "-", expected, seconds / expected, f"under {expected:g} s", seconds < expected)


def _percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _all(stacks: Sequence[Stack], folder: Path, deaths: int, cancels: int) -> tuple[list[float], list[float]]:
    """Deaths on one stack after the other, and cancels in between: a worker has lived for a while when it dies, as others do.

    One that dies again soon after its start is started later and later, so that what is broken does not keep a machine busy.
    """
    chance = random.Random(deaths)  # noqa: S311 - moments
    verdicts: list[float] = []
    ended: list[float] = []
    for number in range(max(deaths, 1)):
        stack = stacks[number % len(stacks)]
        while len(ended) < cancels * (number + 1) // max(deaths, 1):
            ended.append(_cancel(stack))
        if number < deaths:
            verdicts.append(_death(stack, folder / f"death-{number}", chance.uniform(0, 2)))
        if number % 5 == 4:  # a sign of life now and then
            worst = f"up to {max(verdicts):.1f} s; {len(ended)} cancels, up to {max(ended, default=0):.1f} s"
            print(f"  {number + 1} deaths, {worst}", file=sys.stderr, flush=True)
    return verdicts, ended


def measure(deaths: int = DEATHS, cancels: int = CANCELS) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = Path(name)
        sshd = ends.enter_context(run_sshd(folder / "sshd", at_home(folder / "user")))
        stacks = [ends.enter_context(run_stack(folder / f"home-{number}", sshd)) for number in range(STACKS)]
        verdicts, ended = _all(stacks, folder, deaths, cancels)
    return [
        _row(f"cancel on {CANCELED} hosts to the last process gone, p50 of {cancels}", median(ended), 5),
        _row("  the same, p99", _percentile(ended, 0.99), 5),
        _row(f"worker killed to the verdict on {DYING} hosts, p50 of {deaths}", median(verdicts), 20),
        _row("  the same, the longest", max(verdicts), 20),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=DEATHS)
    parser.add_argument("--cancels", type=int, default=CANCELS)
    options = parser.parse_args()
    show(measure(options.deaths, options.cancels))
