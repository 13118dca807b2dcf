"""Every benchmark, as a table and as JSON (build/bench.json). `make bench` runs it."""

import os
from pathlib import Path

import bench_ends
import bench_ssh
import bench_store
import bench_trigger
from side_by_side import as_json, show

if __name__ == "__main__":
    rows = [*bench_store.measure(), *bench_ssh.measure(), *bench_trigger.measure(), *bench_ends.measure()]
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(as_json(rows) + "\n")
    print(f"{os.cpu_count()} processors, shared with sshd and Prefect's server; medians, and ratios round by round\n")
    show(rows)
    print(f"\nalso in {target}")
