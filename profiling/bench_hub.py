"""One hub with thousands of simulated agents: each figure beside its goal.

    bench_hub.py [--agents 10000] [--tls]

A hub process on a new home, agents in processes of their own (load_agents.py), and a worker's executor and recorder in this one. What is
said to be the processor's time is it; all else is a clock's, and worth something on a machine that has nothing else to do. Bounded: every
step has its deadline, and the agents end by themselves. A minute of it is rest, in which heartbeats are counted, however few the agents.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from load_fleet import LoadFleet, run_fleet
from side_by_side import Row, show

from flows.brake import Brake
from flows.context import Context, close_context, open_context
from flows.request import Options, Request
from flows.rollout import Rollout
from models.owner import Owner
from models.policy import Policy
from models.records import TaskSpec
from models.settings import Settings
from models.states import ExecutionState
from models.values import Attempt, Command, ExecutorKind, Host
from tests.executors.sinks import Collector
from tests.servers.hub import Hub, run_hub

AGENTS = 10_000
SMALL = 1_000  # of which a second task takes so many
SINGLE = 50  # commands, one after the other
FIRST = 1_000  # whose memory is not measured
FORKS = 2_000  # hosts at the same time: more of them bring nothing but queues
SETTLE = 30.0  # seconds: those that came together go apart
BEAT = 33.0  # seconds: every agent has had its heartbeat
BACK = 60.0  # seconds in which all are back that have lost the hub
_TOTAL = 285.0  # seconds until the agents end
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Moment:
    """The hub process at one moment."""

    cpu: float  # seconds
    memory: int  # bytes

    @classmethod
    def of(cls, hub: Hub) -> "Moment":
        assert hub.process
        proc = Path(f"/proc/{hub.process.pid}")
        times = (proc / "stat").read_text().rsplit(")", 1)[1].split()
        pages = int((proc / "statm").read_text().split()[1])
        return cls((int(times[11]) + int(times[12])) / _TICKS, pages * os.sysconf("SC_PAGE_SIZE"))


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """Seconds from the opening of a task."""

    created: float
    first: float  # an agent has its command
    stored: float
    shown: float  # from the last result at the hub, until the task has ended
    hub: float  # of its processor, for each command
    worker: float  # of its processor, for each command


def row(what: str, unit: str, figure: float, goal: float) -> Row:
    """A figure that should stay below its goal."""
    return Row(what, unit, figure, "goal", goal, figure / goal, f"under {goal:g} {unit}", figure < goal)


def tls_memory() -> Row:
    """What an agent takes with TLS. The first ones pay for what all share: threads, and what their connections to the database keep."""
    with tempfile.TemporaryDirectory() as name, run_hub(Path(name), FLEETFLOW_HUB_TLS="on") as hub:
        token = hub.token(uses=FIRST + SMALL)
        with run_fleet(hub.url, token, FIRST, _TOTAL, "first") as first:
            first.await_online(120)
            before = Moment.of(hub)
            with run_fleet(hub.url, token, SMALL, _TOTAL, "next") as fleet:
                fleet.await_online(120)
                grown = Moment.of(hub).memory - before.memory
    return row(f"hub's memory for each of {SMALL:,} agents with TLS", "KiB", grown / SMALL / 1024, 40)


def enrolment(hub: Hub, fleet: LoadFleet, before: Moment, began: float) -> list[Row]:
    """All join, and poll."""
    figures = fleet.await_online(120)
    after, count = Moment.of(hub), fleet.count
    return [
        row(f"{count:,} agents enrolled and connected", "s", figures.changed_at - began, 120),
        row("  hub's processor for each", "ms", (after.cpu - before.cpu) / count * 1e3, 5),
        row("  hub's memory for each", "KiB", (after.memory - before.memory) / count / 1024, 40),
    ]


def heartbeats(hub: Hub, fleet: LoadFleet) -> list[Row]:
    """Nothing is to be done; polls come and go."""
    time.sleep(SETTLE)
    fleet.figures()
    before = Moment.of(hub)
    time.sleep(BEAT)
    figures, after = fleet.figures(), Moment.of(hub)
    return [
        row(f"a heartbeat of {figures.syncs:,}: hub's processor, with all that it does besides", "ms",
            (after.cpu - before.cpu) / max(1, figures.syncs) * 1e3, 1),
        row("  latency p50", "ms", figures.latency(0.5) * 1e3, 50),
        row("  latency p99", "ms", figures.latency(0.99) * 1e3, 50),
    ]  # fmt: skip


async def run_task(context: Context, hub: Hub, fleet: LoadFleet, hosts: Sequence[Host]) -> TaskTimes:
    """`true` on these hosts, from its opening to its end in the database."""
    policy = Policy(forks=FORKS)
    request = Request(
        name="true", command=Command(script="true"), target="bench", hosts=tuple(hosts), connect_timeout=60, policy=policy, reach=Options()
    )
    spec = TaskSpec(name="true", command=request.command, target="bench", hosts=tuple(host.name for host in hosts), policy=policy)
    fleet.figures()
    before, own, began = Moment.of(hub), time.process_time(), time.time()
    task = context.store.open_task(spec, str(context.owner))
    claims = context.store.claim(task.id, str(context.owner))
    created = time.time()
    rollout = Rollout(context, request, Brake(policy, task.counts), on_end=lambda *_: None)
    await asyncio.gather(*(rollout.run(claim) for claim in claims))
    ended = context.store.close_task(task.id)
    stored = time.time()
    assert ended.counts[ExecutionState.SUCCEEDED] == len(hosts) == context.store.recount(task.id)[ExecutionState.SUCCEEDED], ended.counts
    after, worker = Moment.of(hub), time.process_time() - own
    seen = fleet.figures()
    return TaskTimes(
        created=created - began,
        first=seen.first_command_at - began,
        stored=stored - began,
        shown=stored - seen.last_ended_at,
        hub=(after.cpu - before.cpu) / len(hosts),
        worker=worker / len(hosts),
    )


async def deliveries(context: Context, fleet: LoadFleet) -> list[float]:
    """Seconds from the moment at which a command is queued until its agent, which had nothing to do, has it; one after the other."""
    executor, found = context.executors[ExecutorKind.AGENT], []
    for host in fleet.hosts[-SINGLE:]:
        fleet.figures()
        attempt, began = Attempt(id=uuid.uuid4()), time.time()
        await executor.run(attempt, host, Command(script="true"), Collector())
        found.append(fleet.figures().first_command_at - began)
        await executor.ack(attempt, host)
    return found


def tasks(hub: Hub, fleet: LoadFleet) -> list[Row]:
    """Single commands, one task over all agents, and one over some."""
    os.environ["FLEETFLOW_HOME"] = str(hub.home)

    async def run() -> tuple[list[float], TaskTimes, TaskTimes]:
        context = open_context(Settings.load(), Owner.load(hub.home))
        gc.freeze()  # as the worker does
        try:
            single = await deliveries(context, fleet)
            large = await run_task(context, hub, fleet, fleet.hosts)
            await asyncio.sleep(5)  # until the agents have been told to forget
            return single, large, await run_task(context, hub, fleet, fleet.hosts[:SMALL])
        finally:
            await close_context()

    single, large, small = asyncio.run(run())
    few = min(SMALL, fleet.count)
    return [
        row("a command for an agent that waits: it has it, p50", "ms", median(single) * 1e3, 50),
        row(f"one task over {fleet.count:,}: its rows created", "s", large.created, 0.5),
        row("  the first agent has its command", "s", large.first, 1),
        row("  all stored and counted", "s", large.stored, 15),
        row("  ended after the last result", "s", large.shown, 1),
        row("  hub's processor for each command", "ms", large.hub * 1e3, 1.5),
        row("  worker's processor for each command", "ms", large.worker * 1e3, 1),
        row(f"one task over {few:,}: all stored and counted", "s", small.stored, 2),
    ]


def reconnect(hub: Hub, fleet: LoadFleet) -> Row:
    """The hub is killed, and started again at once: all agents lose it in the same second."""
    hub.kill()
    began = time.time()
    hub.start()
    figures = fleet.await_online(BACK + 10)
    return row(f"{fleet.count:,} agents that lost the hub at once are back", "s", figures.changed_at - began, BACK)


def measure(agents: int = AGENTS, *, tls: bool = False) -> list[Row]:
    """All figures of a hub with so many agents."""
    with tempfile.TemporaryDirectory() as name, run_hub(Path(name), **({"FLEETFLOW_HUB_TLS": "on"} if tls else {})) as hub:
        before, began = Moment.of(hub), time.time()
        with run_fleet(hub.url, hub.token(uses=agents), agents, _TOTAL) as fleet:
            rows = enrolment(hub, fleet, before, began)
            rows += [*heartbeats(hub, fleet), *tasks(hub, fleet), reconnect(hub, fleet)]
    return [replace(row, what=f"{row.what}, with TLS") for row in rows] if tls else [*rows, tls_memory()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--tls", action="store_true", help="the hub with TLS, and its own certificate")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = measure(options.agents, tls=options.tls)
    print(f"{os.cpu_count()} processors; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    show(found)
