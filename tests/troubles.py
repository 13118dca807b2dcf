"""A task on agents behind a proxy that spoils what they say, while hub, agents and worker are killed; and what comes of it."""

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.records import Task
from models.store import Store
from tests.dying import Death
from tests.servers.hub import RealAgent
from tests.servers.proxy import Fault, Proxy
from tests.stacks import Stack
from tests.until import until
from tests.witness import Witness, miscounts, of_task

_LINES = 5
_FAULTS = (Fault.DROPPED, Fault.LOST, Fault.SLOW, Fault.TWICE, Fault.CUT, Fault.LATER, Fault.ERROR, Fault.TOO_MANY, Fault.HTML)
_SPOILED = 0.25  # of the requests


@dataclass(frozen=True)
class Kill:
    """What is killed, so many seconds after the start of a round."""

    after: float
    what: str  # hub, worker, or the name of an agent


@contextmanager
def run_agents(stack: Stack, proxy: Proxy, folder: Path, number: int) -> Iterator[list[RealAgent]]:
    """So many real agents behind a proxy, one of whom somebody has to approve."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{proxy.port}"
    token = stack("agent", "token", "--uses", str(number - 1), "--approve").stdout.strip()
    line = next(line for line in stack("agent", "join", "--hub", url).stdout.splitlines() if "--token" in line)
    assert url in line
    made = [RealAgent(folder / name, name) for name in (f"agent{place}" for place in range(1, number + 1))]
    with ExitStack() as ends, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda agent: agent.join(url, token if agent is not made[0] else line.split()[-1]), made))
        approved = stack("agent", "approve", made[0].name)
        assert approved.returncode == 0, approved.stderr
        until(lambda: len(stack.rows("host", "list", f"agent[1-{number}]")) == number, 30, "the agents in the inventory", every=0.2)
        for agent in made:
            agent.start()
            ends.callback(agent.end)
        yield made


def trouble(stack: Stack, agents: Sequence[RealAgent], proxy: Proxy, folder: Path, chance: random.Random, *, kills: int) -> Death:
    """One round: a task on all agents, while everything goes wrong for three seconds, and so many kills."""
    folder.mkdir(parents=True)
    body = f"i=0; while [ $i -lt {_LINES} ]; do echo line $i; i=$((i+1)); sleep 0.3; done"
    witness = Witness(folder / "witness", body, b"".join(b"line %d\n" % number for number in range(_LINES)), 3)
    names = [agent.name for agent in agents]
    what = ["hub", "worker", *chance.sample(names, len(names))][:kills]
    plan = sorted((Kill(chance.uniform(0, 3), one) for one in what), key=lambda kill: kill.after)
    store = stack.store()
    try:
        with proxy.spoiling(_spoil(chance)):
            run = stack.create_run(command=witness.script, target=",".join(names), on_disconnect="linger", connect_timeout=60.0)
            until(lambda: store.task_of_flow_run(run), 60, "the task")
            began = time.monotonic()
            for kill in plan:
                time.sleep(max(0.0, began + kill.after - time.monotonic()))  # the moment of the death, and no wait for anything
                _kill(stack, agents, kill.what)
        task = until(lambda: _ended(store, run), 120, "a verdict on every host")
        assert task is not None
        stack.ended(run, 60)
        states = Counter({str(state): number for state, number in task.counts.items() if number})
        return Death(time.monotonic() - began, states, [*witness.complaints(of_task(store, task.id)), *miscounts(store, task.id)])
    finally:
        store.close()


def _spoil(chance: random.Random) -> Callable[[str, str], Fault | None]:
    lock = threading.Lock()

    def choose(_method: str, path: str) -> Fault | None:
        with lock:
            return chance.choice(_FAULTS) if path.endswith("/sync") and chance.random() < _SPOILED else None

    return choose


def _kill(stack: Stack, agents: Sequence[RealAgent], what: str) -> None:
    agent = next((agent for agent in agents if agent.name == what), None)
    if agent is not None:
        agent.kill()
        agent.start()
    elif process := stack.state.children.get(what):  # it may be dead already
        os.kill(process.pid, signal.SIGKILL)


def _ended(store: Store, run: uuid.UUID) -> Task | None:
    task = store.task_of_flow_run(run)
    return task if task is not None and task.state.is_final else None
