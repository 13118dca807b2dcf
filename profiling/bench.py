"""Every benchmark, or those that are named, as tables and as JSON (build/bench.json). `make bench` runs it; `make bench ARGS=ssh` one."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_ends
import bench_hub
import bench_pages
import bench_ssh
import bench_store
import bench_trigger
from side_by_side import Row, as_json, show

PARTS: dict[str, Callable[[], Sequence[Row]]] = {
    "store": bench_store.measure,
    "ssh": bench_ssh.measure,
    "trigger": bench_trigger.measure,
    "ends": bench_ends.measure,
    "pages": bench_pages.measure,
    "hub": bench_hub.measure,
}


def main(names: Sequence[str]) -> int:
    """Run the parts one after the other, each with its table at its end: what one has measured, another that breaks does not take away."""
    print(f"{os.cpu_count()} processors, shared with sshd and Prefect's server; medians, and ratios round by round", flush=True)
    rows: list[Row] = []
    broken = []
    for name in names:
        print(f"\n{name}, at a load of {os.getloadavg()[0]:.1f}", flush=True)
        try:
            measured = PARTS[name]()
        except Exception:  # noqa: BLE001 - the others are to be measured all the same
            traceback.print_exc()
            broken.append(name)
            continue
        show(measured)
        rows += measured
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(as_json(rows) + "\n")
    print(f"\nalso in {target}" + (f"; broken: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    sys.exit(main(parser.parse_args().parts or list(PARTS)))
