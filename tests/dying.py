"""Kills the worker in the middle of a task of durable runs, and waits for what the next one makes of it."""

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from models.records import Task
from models.store import Store
from tests.stacks import Stack
from tests.until import until
from tests.witness import Witness, miscounts, of_task

_LINES = 8


@dataclass(frozen=True)
class Death:
    """What came of one. `took`: seconds from the kill until every host had its verdict, and the flow run its end."""

    took: float
    states: Counter[str]
    found: list[str]


def death_of_a_worker(stack: Stack, folder: Path, hosts: int, after: float) -> Death:
    """Kill the worker `after` so many seconds of a task on `hosts` addresses from 127.9.0.1 on."""
    folder.mkdir(parents=True)
    body = f"i=0; while [ $i -lt {_LINES} ]; do echo line $i; i=$((i+1)); sleep 0.2; done"
    witness = Witness(folder / "witness", body, b"".join(b"line %d\n" % number for number in range(_LINES)), 3)
    run = stack.create_run(command=witness.script, target=f"127.9.0.[1-{hosts}]", on_disconnect="linger")
    store = stack.store()
    try:
        until(lambda: store.task_of_flow_run(run), 60, "the task")
        time.sleep(after)  # the moment of the death, and no wait for anything
        os.kill(stack.state.children["worker"].pid, signal.SIGKILL)
        began = time.monotonic()
        task = until(lambda: _ended(store, store.task_of_flow_run(run)), 120, "a verdict on every host")
        assert task is not None
        stack.ended(run, 60)
        took = time.monotonic() - began
        known = of_task(store, task.id)
        states = Counter({str(state): number for state, number in task.counts.items() if number})
        return Death(took, states, [*witness.complaints(known), *miscounts(store, task.id)])
    finally:
        store.close()


def _ended(store: Store, task: Task | None) -> Task | None:
    return task if task is not None and task.state.is_final else None
