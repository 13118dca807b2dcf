"""The memory of a hub and of real agents, while commands run on all of them and connections break again and again.

    soak_hub.py [--seconds 600] [--agents 200] [--real 2] [--heap] [--plant 0]

Fits a slope to the resident sets after a warm-up, and ends with an error when one grows by more than 10 MB an hour; prints the figures as
JSON. With `--heap` it is what the hub has in use (heap_hub.py), which shows in a minute what a resident set shows in ten. `--plant N` lets
N agents join for good in every round: a measurement that cannot fail proves nothing.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from statistics import median

from load_fleet import LoadFleet, run_fleet

from executors.agent.executor import ByAgent
from models.values import Attempt, Command, Host, Result
from tests.executors.sinks import Collector
from tests.servers.hub import Hub, RealAgent, run_hub
from tests.servers.relay import Relay, run_relay

ALLOWED = 10.0  # MB an hour
_WARM_UP = 0.3  # of the time
_REST = 1.0  # seconds after each round, in which a sample is taken
_POINTS = 200  # of a fit
_HEAP = Path(__file__).with_name("heap_hub.py")


def resident(pid: int) -> int:
    """The resident set, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Bytes a second: the median of the slopes between all pairs (Theil and Sen), to which one step of an allocator is none."""
    some = samples[:: max(1, len(samples) // _POINTS)]
    return median((there - here) / (then - now) for (now, here), (then, there) in combinations(some, 2))


class Soak:
    """One hub with its agents, and rounds of commands and broken connections."""

    def __init__(self, hub: Hub, fleet: LoadFleet, relay: Relay, real: Sequence[RealAgent]) -> None:
        self._hub = hub
        self._fleet = fleet
        self._relay = relay
        self._real = real
        self._executor: ByAgent = hub.executor()
        self.commands = self.rounds = 0
        self.samples: dict[str, list[tuple[float, float]]] = {"hub": [], **{agent.name: [] for agent in real}}

    async def run(self, seconds: float, plant: int) -> None:
        """Go round for so long."""
        until = time.monotonic() + seconds
        hosts = [*self._fleet.hosts, *(agent.host for agent in self._real)]
        while time.monotonic() < until:
            command = Command(script="echo hi")
            await asyncio.gather(*(self._run(host, command) for host in hosts))
            self._fleet.drop(self._fleet.count // 10)
            if self.rounds % 5 == 0:
                self._relay.reset()
            if plant:
                await asyncio.to_thread(self._plant, plant)
            await asyncio.sleep(_REST)
            self._take_samples()
            self.rounds += 1
        await self._executor.aclose()

    async def _run(self, host: Host, command: Command) -> None:
        attempt, sink = Attempt(id=uuid.uuid4()), Collector()
        result = await self._executor.run(attempt, host, command, sink)
        assert result == Result(exit_code=0), result
        await self._executor.ack(attempt, host)
        self.commands += 1

    def _take_samples(self) -> None:
        assert self._hub.process
        now = time.monotonic()
        heap = self._hub.home / "heap"
        self.samples["hub"].append((now, int(heap.read_text()) if heap.exists() else resident(self._hub.process.pid)))
        for agent in self._real:
            assert agent.process
            self.samples[agent.name].append((now, resident(agent.process.pid)))

    def _plant(self, count: int) -> None:
        agents, token = self._hub.agents(), self._hub.token(uses=count)
        for _ in range(count):
            agents.join(token, name=f"planted-{uuid.uuid4().hex}", machine="planted", version="1", facts={})

    def growth(self) -> dict[str, float]:
        """MB an hour, after the warm-up."""
        return {name: slope(samples[int(_WARM_UP * len(samples)) :]) * 3600 / 1e6 for name, samples in self.samples.items()}


@contextmanager
def run_soak(folder: Path, agents: int, real: int, seconds: float, *, heap: bool) -> Iterator[Soak]:
    """A hub with simulated agents, and with real ones behind a relay."""
    with ExitStack() as stack:
        traced = run_hub(folder / "hub", program=(str(_HEAP),), PYTHONMALLOC="malloc", MALLOC_ARENA_MAX="2")
        hub = stack.enter_context(traced if heap else run_hub(folder / "hub"))
        port = int(hub.url.rsplit(":", 1)[1])
        relay = stack.enter_context(run_relay(port))
        programs = [RealAgent(folder / f"real-{number}", f"real-{number}") for number in range(1, real + 1)]
        for agent in programs:
            agent.join(hub.url.replace(str(port), str(relay.port)), hub.token())
            agent.start()
            stack.callback(agent.stop)
        fleet = stack.enter_context(run_fleet(hub.url, hub.token(uses=agents), agents, seconds + 120))
        fleet.await_online(60)
        yield Soak(hub, fleet, relay, programs)


def main() -> int:
    """Soak, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--real", type=int, default=2)
    parser.add_argument("--plant", type=int, default=0)
    parser.add_argument("--heap", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        run_soak(Path(name), options.agents, options.real, options.seconds, heap=options.heap) as soak,
    ):
        asyncio.run(soak.run(options.seconds, options.plant))
        growth = soak.growth()
        ends = {what: round(samples[-1][1] / 1e6, 1) for what, samples in soak.samples.items()}
    print(json.dumps({"mb_an_hour": growth, "mb_at_the_end": ends, "rounds": soak.rounds, "commands": soak.commands}))
    if os.environ.get("SOAK_DUMP"):
        Path(os.environ["SOAK_DUMP"]).write_text(json.dumps(soak.samples))
    return int(any(one > ALLOWED for one in growth.values()))


if __name__ == "__main__":
    sys.exit(main())
