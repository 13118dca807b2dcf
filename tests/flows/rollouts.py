"""A rollout without Prefect: a real store and recorder, and an executor whose hosts do as they are told."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from executors.protocol import Sink
from flows.brake import Brake
from flows.context import Context
from flows.places import Places
from flows.request import Options, Request
from flows.rollout import BetweenWaves, Rollout, roll_out
from models.errors import ConnectionLostError, UnreachableError
from models.lease import Lease
from models.owner import Owner
from models.policy import Policy
from models.recorder import Recorder
from models.records import Claim, Task, TaskSpec
from models.settings import Settings
from models.states import ExecutionState
from models.store import Store
from models.values import Attempt, Command, ExecutorKind, Host, Result, Stream

S = ExecutionState


@dataclass(frozen=True)
class Act:
    """What one try of a host comes to, and how long it takes before its start and after it."""

    end: ExecutionState = S.SUCCEEDED
    before: float = 0
    after: float = 0


@dataclass
class Stage:
    """An executor that plays an act for each try of a host, and writes down what happened in which order."""

    acts: Mapping[str, Sequence[Act]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)  # ("try" | "start" | "end", host)
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    running: set[str] = field(default_factory=set)
    most: int = 0

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result:
        self.log.append(("try", host.name))
        acts = self.acts.get(host.name, [Act()])
        act = acts[min(self.tries[host.name], len(acts) - 1)]
        self.tries[host.name] += 1
        await asyncio.sleep(act.before)
        if act.end is S.UNREACHABLE:
            self.log.append(("end", host.name))
            raise UnreachableError(host.name, "away")
        await sink.starting()
        self.log.append(("start", host.name))
        self.running.add(host.name)
        self.most = max(self.most, len(self.running))
        sink.output(Stream.STDOUT, f"try {attempt.number}".encode())
        try:
            await asyncio.sleep(60 if act.end is S.TIMED_OUT else act.after)
        finally:
            self.running.discard(host.name)
            self.log.append(("end", host.name))
        if act.end is S.LOST:
            raise ConnectionLostError(host.name, "cut")
        return Result(exit_code=0 if act.end is S.SUCCEEDED else 3)

    async def aclose(self) -> None: ...

    def started(self) -> list[str]:
        return [host for what, host in self.log if what == "start"]


@asynccontextmanager
async def open_context(store: Store, stage: Stage, *, host_limit: int = 4, incarnation: str = "") -> AsyncIterator[Context]:
    owner = Owner(host="machine", home="home", incarnation=incarnation or uuid.uuid4().hex)
    context = Context(
        settings=Settings(),
        owner=owner,
        store=store,
        lease=Lease(store, str(owner), 60),
        recorder=Recorder(store, output_limit=1000),
        executors={ExecutorKind.SSH: stage},
        places=Places(store, host_limit),
    )
    try:
        yield context
    finally:
        context.places.close()
        await context.recorder.aclose()
        context.lease.close()


def names(number: int) -> tuple[str, ...]:
    return tuple(f"h{place}" for place in range(number))


def open_task(context: Context, policy: Policy, hosts: Sequence[str], *, timeout: float | None = None) -> Task:
    command = Command(script="true", timeout=timeout)
    spec = TaskSpec(name="test", command=command, target="t", hosts=policy.choose(hosts), policy=policy)
    return context.store.open_task(spec, str(context.owner))


async def play(
    context: Context, policy: Policy, hosts: Sequence[str], *, timeout: float | None = None, between: BetweenWaves | None = None
) -> Task:
    """Run a task over hosts to its end."""
    return await resume(context, open_task(context, policy, hosts, timeout=timeout), between)


async def resume(context: Context, task: Task, between: BetweenWaves | None = None) -> Task:
    """Run what has never started of a task, as `perform` does."""
    store, policy = context.store, task.policy
    hosts = tuple(Host(name=execution.host) for execution in store.executions(task.id))
    request = Request(name="test", command=task.command, target="t", hosts=hosts, connect_timeout=5, policy=policy, reach=Options())
    claims = store.claim(task.id, str(context.owner))
    ends_at = None if policy.deadline is None else asyncio.get_running_loop().time() + policy.deadline
    brake = Brake(policy, store.task(task.id).counts, ends_at=ends_at)
    rollout = Rollout(context, request, brake, on_end=lambda *_: None)
    try:
        await roll_out(rollout, claims, _all_at_once, between)
    except asyncio.CancelledError:
        store.close_task(task.id, canceled=True, reason="canceled")
        raise
    return store.close_task(task.id, reason=brake.reason, unstarted=brake.reason and f"not started: {brake.reason}")


async def _all_at_once(rollout: Rollout, claims: Sequence[Claim], total: int) -> None:
    runs = [asyncio.ensure_future(rollout.run(claim)) for claim in claims]
    try:
        await asyncio.wait(runs)
    except asyncio.CancelledError:
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        raise
    for run in runs:
        run.result()
