"""The heap over 1,000 rounds of 10 tasks created, run and finished, by memray. Prints one sample (bytes) each 100 rounds as JSON.

Run it with PYTHONMALLOC=malloc, so that memray sees each object and not only the arenas they live in.
`--plant` leaks 200 bytes a round on purpose: a measurement that cannot fail proves nothing.
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
from pathlib import Path

import memray

from models import database
from models.recorder import Recorder
from models.records import Outcome, TaskSpec
from models.states import ExecutionState
from models.store import Store
from models.values import Command, Stream

TASKS = 10
_HOSTS = ("web1", "web2", "web3")
_INTERVAL = 5  # milliseconds between memray's own looks at the heap


async def _rounds(store: Store, rounds: int, every: int, planted: list[bytes] | None) -> list[float]:
    """Run the rounds; returns the times (seconds since the epoch) at which the heap was quiet."""
    recorder = Recorder(store, output_limit=4096)
    quiet: list[float] = []
    for number in range(1, rounds + 1):
        await asyncio.gather(*(_one_task(store, recorder) for _ in range(TASKS)))
        if planted is not None:
            planted.append(bytes(200))
        if number % every == 0:
            gc.collect()
            await asyncio.sleep(4 * _INTERVAL / 1000)
            quiet.append(time.time())
            await asyncio.sleep(4 * _INTERVAL / 1000)
    await recorder.aclose()
    return quiet


async def _one_task(store: Store, recorder: Recorder) -> None:
    task = store.open_task(TaskSpec(name="leak", command=Command(script="echo hi"), target="web[1-3]", hosts=_HOSTS), "leak")
    for claim in store.claim(task.id, "leak"):
        recording = recorder.record(claim)
        await recording.starting()
        recording.output(Stream.STDOUT, b"hi\n")
        await recording.finish(Outcome(state=ExecutionState.SUCCEEDED, exit_code=0))
    store.close_task(task.id)
    store.executions(task.id)


def measure(rounds: int, every: int, *, plant: bool) -> list[int]:
    """The heap (bytes) after each `every` rounds."""
    planted: list[bytes] | None = [] if plant else None
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'leak.db'}"
        database.upgrade(url)
        store = Store.open(url, cache_kib=64)
        file = Path(name) / "leak.bin"
        with memray.Tracker(file, memory_interval_ms=_INTERVAL, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS):
            quiet = asyncio.run(_rounds(store, rounds, every, planted))
        store.close()
        snapshots = list(memray.FileReader(file).get_memory_snapshots())
    return [min(snapshots, key=lambda snapshot: abs(snapshot.time - moment * 1000)).heap for moment in quiet]


def slope(samples: list[int]) -> float:
    """Bytes a sample, by least squares."""
    middle = (len(samples) - 1) / 2
    mean = sum(samples) / len(samples)
    return sum((x - middle) * (y - mean) for x, y in enumerate(samples)) / sum((x - middle) ** 2 for x in range(len(samples)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--plant", action="store_true")
    options = parser.parse_args()
    heap = measure(options.rounds, options.every, plant=options.plant)
    print(json.dumps({"heap": heap, "slope_of_second_half": slope(heap[len(heap) // 2 :]), "growth": heap[-1] - heap[1]}))
