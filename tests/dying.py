"""Kills the worker in the middle of a task of durable runs, and waits for what the next one makes of it."""

import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from models.records import Task
from models.store import Store
from tests.pace import Pace
from tests.until import until
from tests.witness import Witness, miscounts, of_task

_LINES = 8
_LOOK = 0.1  # seconds; what is looked at shares the processors with us
_MARGIN = 10.0  # seconds after the lease within which every host has its verdict


class Scene(Protocol):
    """Where a worker dies."""

    def store(self) -> Store: ...

    def create_run(self, *, command: str, target: str, on_disconnect: str, forks: int) -> uuid.UUID: ...

    def kill_worker(self, task: Task) -> None:
        """`kill -9` of the worker that runs a task, and what is needed that another one lives."""

    def ended(self, flow_run_id: uuid.UUID, seconds: float) -> object: ...


@dataclass(frozen=True)
class Death:
    """What came of one. `took`: seconds from the kill until every host had its verdict, and the flow run its end."""

    took: float
    states: Counter[str]
    found: list[str]
    before: Counter[str] = field(default_factory=Counter)  # the states that the dead worker left
    stretch: float = 1.0  # of the machine meanwhile, as `Pace` says

    def late(self, lease: float) -> list[str]:
        """What does not hold of its time: the verdict comes within the lease and ten seconds of a machine that has processors to spare."""
        allowed = lease + _MARGIN * self.stretch
        said = f"the verdict took {self.took:.1f} s, with a lease of {lease:g} s on a machine {self.stretch:.1f} times slower than alone"
        return [said] if self.took > allowed else []


def death_of_a_worker(scene: Scene, folder: Path, hosts: int, after: float) -> Death:
    """Kill the worker `after` so many seconds of a task on addresses from 127.9.0.1 on, of which a quarter waits for others."""
    folder.mkdir(parents=True)
    body = f"i=0; while [ $i -lt {_LINES} ]; do echo line $i; i=$((i+1)); sleep 0.2; done"
    witness = Witness(folder / "witness", body, b"".join(b"line %d\n" % number for number in range(_LINES)), 3)
    target, forks = f"127.9.0.[1-{hosts}]", max(1, hosts * 3 // 4)
    run = scene.create_run(command=witness.script, target=target, on_disconnect="linger", forks=forks)
    store = scene.store()
    try:
        task = until(lambda: store.task_of_flow_run(run), 60, "the task")
        assert task is not None
        time.sleep(after)  # the moment of the death, and no wait for anything
        with Pace() as pace:
            began = time.monotonic()
            scene.kill_worker(store.task(task.id))
            left = _states(store.task(task.id))
            task = until(lambda: _ended(store, store.task_of_flow_run(run)), 120, "a verdict on every host", every=_LOOK)
            assert task is not None
            scene.ended(run, 60)
            took = time.monotonic() - began
        found = [*witness.complaints(of_task(store, task.id)), *miscounts(store, task.id)]
        return Death(took, _states(task), found, left, pace.stretch)
    finally:
        store.close()


def _states(task: Task) -> Counter[str]:
    return Counter({str(state): number for state, number in task.counts.items() if number})


def _ended(store: Store, task: Task | None) -> Task | None:
    return task if task is not None and task.state.is_final else None
