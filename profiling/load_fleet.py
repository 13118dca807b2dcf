"""A fleet of simulated agents in processes of its own (load_agents.py), for whoever measures a hub."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.values import ExecutorKind, Host

_SCRIPT = Path(__file__).with_name("load_agents.py")
_EACH = 5000  # agents of a process: two connections each, and there are 20,000 descriptors


@dataclass(frozen=True, slots=True)
class Figures:
    """What the fleet has seen since it was last asked; see load_agents.py."""

    latencies: list[float]  # seconds, sorted
    syncs: int
    failures: dict[str, int]  # by status; "0": without an answer
    commands: int
    ended: int
    first_command_at: float
    last_command_at: float
    last_ended_at: float
    joined: int
    online: int
    changed_at: float

    def latency(self, part: float) -> float:
        """So much of all polls was answered within these seconds."""
        return self.latencies[min(len(self.latencies) - 1, int(part * len(self.latencies)))] if self.latencies else 0.0


class LoadFleet:
    """Agents `load-1` to `load-N`, or of another name."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"], count: int, name: str = "load") -> None:
        self._processes = processes
        self._name = name
        self.count = count

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(Host(name=f"{self._name}-{number}", executor=ExecutorKind.AGENT) for number in range(1, self.count + 1))

    def figures(self) -> Figures:
        """What was seen since the last call."""
        return _merged([self._ask(process, "figures") for process in self._processes])

    def drop(self, each: int) -> Figures:
        """So many agents of each process lose their connections."""
        return _merged([self._ask(process, f"drop {each}") for process in self._processes])

    def await_online(self, seconds: float) -> Figures:
        """Wait until all have joined and poll; the figures of that moment."""
        deadline = time.monotonic() + seconds
        while (figures := self.figures()).online < self.count:
            assert time.monotonic() < deadline, f"{figures.online} of {self.count} agents are online after {seconds:g} s"
            time.sleep(0.2)
        return figures

    def _ask(self, process: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"a process of simulated agents has ended ({process.wait(10)})"
        found: dict[str, Any] = json.loads(answer)
        return found


def _merged(found: Sequence[dict[str, Any]]) -> Figures:
    firsts = [one["first_command_at"] for one in found if one["first_command_at"]]
    sums = {name: sum(one[name] for one in found) for name in ("syncs", "commands", "ended", "joined", "online")}
    failures = sum((Counter(one["failures"]) for one in found), Counter())
    lasts = {name: max(one[name] for one in found) for name in ("last_command_at", "last_ended_at", "changed_at")}
    return Figures(
        latencies=sorted(value for one in found for value in one["latencies"]),
        first_command_at=min(firsts, default=0.0),
        failures=dict(failures),
        **sums,
        **lasts,
    )


@contextmanager
def run_fleet(url: str, token: str, count: int, seconds: float, name: str = "load") -> Iterator[LoadFleet]:
    """So many agents of the hub at `url`, which end by themselves after so many seconds; over TLS they take any certificate."""
    processes = [
        subprocess.Popen(
            [
                sys.executable, str(_SCRIPT), url, token, "--first", str(first), "--count", str(min(_EACH, count - first + 1)),
                "--seconds", str(seconds), "--name", f"{name}-", "--source", f"127.0.0.{2 + first // _EACH}",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in range(1, count + 1, _EACH)
    ]  # fmt: skip
    try:
        yield LoadFleet(processes, count, name)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
