"""The worker's memory over many flow runs: its resident set, and its heap as memray sees it in a second life of it.

`make soak` runs it; ends with an error when either grows by more than 10 KB a flow run, fitted over the second half.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import memray
from leak_tasks import lowest, slope

from tests.servers.prefect import PrefectServer, run_prefect_server
from tests.servers.worker import Worker
from tests.until import until

EVERY = 50  # flow runs between two samples
ALLOWED = 10_000  # bytes a flow run
_REST = 0.4  # seconds; memray looks at the heap several times meanwhile


def _rests(worker: Worker, runs: int) -> list[tuple[float, int]]:
    """Run `runs` one-host tasks, some at a time; the moment (seconds since the epoch) and the resident set (bytes) of each rest."""
    found = []
    for _ in range(runs // EVERY):
        waiting = {worker.begin(command="echo hi") for _ in range(EVERY)}
        until(lambda waiting=waiting: _have_ended(worker, waiting), 300, "the runs to end", every=0.5)  # type: ignore[misc]  # mypy cannot infer a default
        time.sleep(_REST)
        found.append((time.time() - _REST / 2, _resident(worker)))
        print(f"  {len(found) * EVERY} of {runs} flow runs, {found[-1][1] / 1e6:.1f} MB resident", file=sys.stderr, flush=True)
    return found


def _have_ended(worker: Worker, runs: set[str]) -> bool:
    wanted = {"flow_runs": {"id": {"any_": sorted(runs)}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    return int(worker.server.post("/flow_runs/count", **wanted)) == len(runs)


def _resident(worker: Worker) -> int:
    assert worker.process is not None
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _resident_sets(server: PrefectServer, home: Path, runs: int) -> list[int]:
    home.mkdir()
    worker = Worker(server, home)
    worker.start()
    found = [size for _, size in _rests(worker, runs)]
    worker.terminate()
    return found


def _heaps(server: PrefectServer, home: Path, runs: int) -> list[int]:
    """With PYTHONMALLOC=malloc memray sees each object, and not only the arenas they live in."""
    home.mkdir()
    file = home / "worker.bin"
    memory = ("-m", "memray", "run", "--quiet", "--aggregate", "--output", str(file))
    worker = Worker(server, home, settings={"PYTHONMALLOC": "malloc"}, under=memory)
    worker.start()
    rests = [moment for moment, _ in _rests(worker, runs)]
    worker.terminate(120)
    snapshots = list(memray.FileReader(file).get_memory_snapshots())
    return [lowest(snapshots, moment, _REST / 2) for moment in rests]


def _judge(what: str, sizes: Sequence[int]) -> bool:
    each = slope(sizes[len(sizes) // 2 :]) / EVERY
    sample = ", ".join(f"{size / 1e6:.1f}" for size in sizes[:: max(1, len(sizes) // 10)])
    print(f"{what}: {each / 1000:+.2f} KB a flow run over the second half (MB: {sample})", flush=True)
    return each < ALLOWED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, run_prefect_server(Path(name)) as prefect:
        well = _judge("resident set", _resident_sets(prefect, Path(name) / "plain", options.runs))
        well &= _judge("heap", _heaps(prefect, Path(name) / "traced", options.runs))
    sys.exit(0 if well else 1)
