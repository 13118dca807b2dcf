"""Chaos: everything that may be killed or cut is killed and cut, and one witness tells what does not hold. `make chaos` runs it.

python profiling/chaos.py [--seed N] [--rounds N] [--workers N] [--hosts N] [--agents N] [--points N] [--cut SECONDS]
    [--shells dash,busybox,bash]
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.dying import death_of_a_worker
from tests.executors.crashing import CALLS, crash, make_home
from tests.executors.ssh.killing import round_of
from tests.executors.ssh.test_silent_cut import COUNTED, cut_and_mend, two_namespaces
from tests.servers.proxy import run_proxy
from tests.servers.sshd import run_sshd
from tests.stacks import run_stack
from tests.troubles import run_agents, trouble

_AGENTS = 50
_QUIET = 6  # points beyond a process's last call kill nobody: so many in a row are the end of a series


@dataclass
class Line:
    """One line of the table."""

    what: str
    tried: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    found: list[str] = field(default_factory=list)

    def take(self, verdicts: Counter[str], seconds: float, found: list[str]) -> None:
        self.tried += 1
        self.verdicts += verdicts
        self.worst = max(self.worst, seconds)
        self.found += found


def crash_points(folder: Path, shell: str, most: int) -> Line:
    """SIGKILL at every system call of every process, kind by kind."""
    line = Line(f"crash points, {shell}")
    for calls in CALLS:
        quiet = 0
        for nth in range(1, most + 1):
            box = make_home(folder / f"{shell}-{calls.partition(',')[0]}-{nth}", shell)
            began = time.monotonic()
            try:
                verdict, found = crash(box, calls, nth)
            finally:
                box.close()
            line.take(Counter({verdict: 1}), time.monotonic() - began, [f"{calls} {nth}: {text}" for text in found])
            quiet = quiet + 1 if verdict == "exit 3" else 0
            if quiet == _QUIET:
                break
    return line


def killed_clients(folder: Path, rounds: int, hosts: int, seed: int) -> Line:
    """SIGKILL of the client at random moments, again and again, and one that recovers."""
    line = Line(f"killed clients, {hosts} hosts a round")
    chance = random.Random(seed)  # noqa: S311 - moments
    with run_sshd(folder / "sshd") as sshd:
        for number in range(rounds):
            states, took, found = round_of(sshd, folder / f"round-{number}", hosts, chance)
            line.take(states, took, [f"round {number}: {text}" for text in found])
    return line


def killed_workers(folder: Path, rounds: int, hosts: int, seed: int) -> Line:
    """SIGKILL of a worker of a whole stack at random moments."""
    line = Line(f"killed workers, {hosts} hosts a round")
    chance = random.Random(seed)  # noqa: S311 - moments
    with run_sshd(folder / "sshd-stack") as sshd, run_stack(folder / "home", sshd, FLEETFLOW_LEASE="2") as stack:
        for number in range(rounds):
            death = death_of_a_worker(stack, folder / f"death-{number}", hosts, chance.uniform(0, 2.5))
            line.take(death.states, death.took, [f"round {number}: {text}" for text in death.found])
    return line


def troubled_agents(folder: Path, rounds: int, seed: int) -> Line:
    """Agents behind a proxy that drops, delays, doubles, reorders and cuts, while hub, worker and agents are killed."""
    line = Line(f"troubled agents, {_AGENTS} a round")
    chance = random.Random(seed)  # noqa: S311 - moments
    with (
        run_sshd(folder / "sshd-agents") as sshd,
        run_stack(folder / "home-agents", sshd) as stack,
        run_proxy(int(str(stack.state.hub_url).rpartition(":")[2])) as proxy,
        run_agents(stack, proxy, folder / "agents", _AGENTS) as agents,
    ):
        for number in range(rounds):
            death = trouble(stack, agents, proxy, folder / f"trouble-{number}", chance, kills=chance.randrange(1, 8))
            lost = [f"lost: {death.states['lost']}, where every host could tell"] if death.states["lost"] else []
            line.take(death.states, death.took, [f"round {number}: {text}" for text in [*death.found, *lost]])
    return line


def silent_cut(folder: Path, seconds: float) -> Line:
    """The network gone without a word, and back."""
    line = Line(f"silent cut of {seconds:g} s")
    with two_namespaces() as spaces, run_sshd(folder / "sshd-cut") as sshd:
        began = time.monotonic()
        printed = cut_and_mend(sshd, spaces, max(1.0, seconds / 6), seconds)
        exact = printed == COUNTED + b"exit 5, left out 0\n"
        line.take(Counter({"exact" if exact else "differs": 1}), time.monotonic() - began, [] if exact else [f"{printed[-200:]!r}"])
    return line


def show(lines: Iterator[Line]) -> bool:
    """Print each line as soon as it is known; whether all held."""
    well = True
    for line in lines:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in line.verdicts.most_common())
        print(f"{line.what:32}  {line.tried:5} tried  worst {line.worst:6.1f} s  {len(line.found):3} broken  {verdicts}", flush=True)
        for text in line.found[:20]:
            print(f"    {text}")
        well = well and not line.found
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the moments; printed, to be given again"
    )
    parser.add_argument("--rounds", type=int, default=300, help="of killed clients")
    parser.add_argument("--workers", type=int, default=300, help="rounds of killed workers")
    parser.add_argument("--agents", type=int, default=10, help=f"rounds of {_AGENTS} agents in trouble")
    parser.add_argument("--hosts", type=int, default=50, help="in each of these rounds")
    parser.add_argument("--points", type=int, default=100, help="the last call of each kind at which a process is killed")
    parser.add_argument("--cut", type=float, default=60, help="seconds of the silent cut")
    parser.add_argument("--shells", default="dash,busybox,bash", help="for the crash points")
    given = parser.parse_args()
    print(f"seed {given.seed}, {os.cpu_count()} processors", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="fleetflow-chaos-"))
    parts: list[Callable[[], Line]] = [
        *(lambda shell=shell: crash_points(folder, shell, given.points) for shell in given.shells.split(",") if shell),  # type: ignore[misc]
        lambda: killed_clients(folder, given.rounds, given.hosts, given.seed),
        lambda: killed_workers(folder, given.workers, given.hosts, given.seed),
        lambda: troubled_agents(folder, given.agents, given.seed),
        *([lambda: silent_cut(folder, given.cut)] if given.cut and os.geteuid() == 0 else []),
    ]
    well = show(part() for part in parts)
    if well:
        shutil.rmtree(folder)
    else:
        print(f"what is left of it is in {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
