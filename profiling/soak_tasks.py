"""Rounds of 20 tasks at once on the same 100 hosts, on a stack of its own; ends at the first round in which something is not as it must be.

`make soak` runs it, with ROUNDS=5 by default.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.burst import Burst
from tests.servers.sshd import run_sshd
from tests.stacks import run_stack


def soak(rounds: int, tasks: int, hosts: int) -> None:
    """Run the rounds, and print what each took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with run_sshd(folder / "sshd") as sshd, run_stack(folder / "home", sshd) as stack:
            for number in range(1, rounds + 1):
                burst = Burst(stack, folder / f"witness-{number}", tasks, hosts)
                began = time.monotonic()
                states = burst.run(600)
                took = time.monotonic() - began
                assert states == ["COMPLETED"] * tasks, "\n".join([*states, *burst.trouble()])
                burst.check()
                print(f"round {number}: {tasks} tasks on {hosts} hosts in {took:.1f} s, {tasks * hosts / took:.0f} results a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--hosts", type=int, default=100)
    options = parser.parse_args()
    soak(options.rounds, options.tasks, options.hosts)
