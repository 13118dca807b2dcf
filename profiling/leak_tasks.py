"""The heap over 1,000 rounds of 10 tasks created, run and finished, by memray. Prints one sample (bytes) each 100 rounds as JSON.

memray traces Python's own allocators, so that it sees each object and not only the arenas they live in.
`--plant N` leaks N bytes a round on purpose: a measurement that cannot fail proves nothing.
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import memray

from models import database
from models.recorder import Recorder
from models.records import Outcome, TaskSpec
from models.states import ExecutionState
from models.store import Store
from models.values import Command, Stream

TASKS = 10
_SPEC = TaskSpec(name="leak", command=Command(script="echo hi"), target="web1", hosts=("web1",))
_SUCCEEDED = Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)
_INTERVAL = 5  # milliseconds between memray's own looks at the heap
_QUIET = 8 * _INTERVAL / 1000  # seconds of rest in which a sample is taken


async def _rounds(store: Store, rounds: int, every: int, plant: int) -> list[float]:
    """Run the rounds; returns the times (seconds since the epoch) in the middle of each rest."""
    recorder = Recorder(store, output_limit=4096)
    rests: list[float] = []
    planted: list[bytes] = []
    for number in range(1, rounds + 1):
        await asyncio.gather(*(_finish(store, recorder, task_id) for task_id in store.create_tasks([_SPEC] * TASKS)))
        if plant:
            planted.append(bytes(plant))
        if number % every == 0:
            gc.collect()
            await asyncio.sleep(_QUIET / 2)
            rests.append(time.time())
            await asyncio.sleep(_QUIET / 2)
    await recorder.aclose()
    return rests


async def _finish(store: Store, recorder: Recorder, task_id: int) -> None:
    (claim,) = store.claim(task_id, "leak")
    recording = recorder.record(claim)
    await recording.starting()
    recording.output(Stream.STDOUT, b"hi\n")
    await recording.finish(_SUCCEEDED)
    store.close_task(task_id)


def measure(rounds: int, every: int, *, plant: int) -> list[int]:
    """The heap (bytes) after each `every` rounds."""
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'leak.db'}"
        database.upgrade(url)
        store = Store.open(url, cache_kib=64)
        file = Path(name) / "leak.bin"
        aggregated = memray.FileFormat.AGGREGATED_ALLOCATIONS
        with memray.Tracker(file, memory_interval_ms=_INTERVAL, file_format=aggregated, trace_python_allocators=True):
            rests = asyncio.run(_rounds(store, rounds, every, plant))
        store.close()
        snapshots = list(memray.FileReader(file).get_memory_snapshots())
    return [lowest(snapshots, rest, _QUIET / 2) for rest in rests]


def lowest(snapshots: Sequence[memray.MemorySnapshot], rest: float, around: float) -> int:
    """The heap in a rest, `around` seconds before and after this moment: the lowest look, since memray may look while it works itself."""
    near = [snapshot.heap for snapshot in snapshots if abs(snapshot.time / 1000 - rest) <= around]
    return min(near) if near else min(snapshots, key=lambda snapshot: abs(snapshot.time / 1000 - rest)).heap


def slope(samples: Sequence[int]) -> float:
    """Bytes a sample, by least squares."""
    middle = (len(samples) - 1) / 2
    mean = sum(samples) / len(samples)
    return sum((x - middle) * (y - mean) for x, y in enumerate(samples)) / sum((x - middle) ** 2 for x in range(len(samples)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--plant", type=int, default=0)
    options = parser.parse_args()
    heap = measure(options.rounds, options.every, plant=options.plant)
    print(json.dumps({"heap": heap, "slope_of_second_half": slope(heap[len(heap) // 2 :]), "growth": heap[-1] - heap[len(heap) // 5]}))
