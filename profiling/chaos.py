"""Chaos: everything that may be killed or cut is killed and cut, and one witness tells what does not hold. `make chaos` runs it.

Rounds run side by side, each with hosts of its own; lines come as parts end, the whole table at the end. A round is repeated
alone by the seed that is printed, its part and its number: `python profiling/chaos.py --seed 7 --parts workers --round 17`.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from lanes import Part, Round, Trial, run, show

from tests.crew import run_crew
from tests.dying import death_of_a_worker
from tests.executors.crashing import CALLS, crash, points
from tests.executors.spooled import spooled
from tests.executors.ssh.killing import round_of, run_clients
from tests.executors.ssh.test_silent_cut import COUNTED, cut_and_mend, two_namespaces
from tests.servers.prefect import run_prefect_server
from tests.servers.proxy import run_proxy
from tests.servers.sshd import at_home, run_sshd
from tests.stacks import run_stack
from tests.troubles import run_agents, trouble

_AGENTS = 50
_SHARES = 8  # of the reads: there are hundreds of them, and five of other calls
_MOMENTS = 2.5  # seconds of a task within which its worker is killed
PARTS = ("points", "cut", "clients", "agents", "workers")

Try = Callable[[Round], Iterator[Trial]]
Series = tuple[str, str, int, int]  # a shell, a kind of calls, and which share of so many of its points


@contextmanager
def crash_points(folder: Path, series: Sequence[Series], most: int) -> Iterator[Try]:
    """SIGKILL at every system call of every process; a round is a series of them."""
    folder.mkdir(parents=True)

    def attempt(given: Round) -> Iterator[Trial]:
        shell, calls, share, shares = series[given.number]
        with spooled(shell, given.folder / "counted") as box:
            all_of_them = points(box, calls)
        for nth in all_of_them[:: max(1, len(all_of_them) // most)][share::shares]:
            began = time.monotonic()
            with spooled(shell, given.folder / f"{nth}") as box:
                verdict, found = crash(box, calls, nth)
            yield Trial(Counter({verdict: 1}), time.monotonic() - began, [f"{shell}, {calls} {nth}: {text}" for text in found])

    yield attempt


def _series(shells: Sequence[str]) -> list[Series]:
    return [
        (shell, calls, share, shares)
        for calls in CALLS
        for shares in [_SHARES if calls == "read" else 1]
        for share in range(shares)
        for shell in shells
    ]


@contextmanager
def killed_clients(folder: Path, hosts: int) -> Iterator[Try]:
    """SIGKILL of the client at random moments, again and again, and one that recovers."""
    with run_sshd(folder / "sshd", at_home(folder / "home")) as sshd, run_clients(sshd) as clients:

        def attempt(given: Round) -> Iterator[Trial]:
            yield Trial(*round_of(clients, given.folder, hosts, given.chance))
            _forget_runs(folder / "home")

        yield attempt


@contextmanager
def killed_workers(folder: Path, hosts: int, lease: float) -> Iterator[Try]:
    """SIGKILL of a worker at random moments; its successor or, once its lease has run out, another worker takes over."""
    (folder / "prefect").mkdir(parents=True)
    with (
        run_sshd(folder / "sshd", at_home(folder / "home")) as sshd,
        run_prefect_server(folder / "prefect") as server,
        run_crew(server, sshd, folder / "crew", lease) as crew,
    ):

        def attempt(given: Round) -> Iterator[Trial]:
            chance = given.chance
            crew.prepare(by_lease=chance.random() < 0.5)
            death = death_of_a_worker(crew, given.folder, hosts, chance.uniform(0, _MOMENTS))
            yield Trial(death.states, death.took, [*death.found, *death.late(lease)], death.stretch)
            _forget_runs(folder / "home")

        yield attempt


@contextmanager
def troubled_agents(folder: Path) -> Iterator[Try]:
    """Agents behind a proxy that drops, delays, doubles, reorders and cuts, while hub, worker and agents are killed."""
    with (
        run_sshd(folder / "sshd") as sshd,
        run_stack(folder / "home", sshd) as stack,
        run_proxy(int(str(stack.state.hub_url).rpartition(":")[2])) as proxy,
        run_agents(stack, proxy, folder / "agents", _AGENTS) as agents,
    ):

        def attempt(given: Round) -> Iterator[Trial]:
            chance = given.chance
            death = trouble(stack, agents, proxy, given.folder, chance, kills=chance.randrange(1, 8))
            lost = [f"lost: {death.states['lost']}, where every host could tell"] if death.states["lost"] else []
            yield Trial(death.states, death.took, [*death.found, *lost])

        yield attempt


@contextmanager
def silent_cut(folder: Path, seconds: float) -> Iterator[Try]:
    """The network gone without a word, and back."""
    with two_namespaces() as spaces, run_sshd(folder / "sshd") as sshd:

        def attempt(_: Round) -> Iterator[Trial]:
            began = time.monotonic()
            printed = cut_and_mend(sshd, spaces, max(1.0, seconds / 6), seconds)
            exact = printed == COUNTED + b"exit 5, left out 0\n"
            yield Trial(Counter({"exact" if exact else "differs": 1}), time.monotonic() - began, [] if exact else [f"{printed[-200:]!r}"])

        yield attempt


def _forget_runs(home: Path) -> None:
    """Hosts of a fleet do not keep each other's runs; these have one home, and all that ran there has ended."""
    shutil.rmtree(home / ".fleetflow", ignore_errors=True)


def _groups(given: argparse.Namespace) -> list[list[Part]]:
    """Parts that run together: what mostly waits, beside what works."""
    shells, jobs = [shell for shell in given.shells.split(",") if shell], given.jobs
    series = _series(shells)
    cuts = 1 if given.cut and os.geteuid() == 0 else 0
    clients, workers = f"killed clients, {given.hosts} hosts", f"killed workers, {given.hosts} hosts"
    return [
        [
            Part("points", f"crash points, {given.shells}", len(series), jobs, lambda folder: crash_points(folder, series, given.points)),
            Part("cut", f"silent cut of {given.cut:g} s", cuts, 1, lambda folder: silent_cut(folder, given.cut)),
        ],
        [
            Part("clients", clients, given.rounds, jobs, lambda folder: killed_clients(folder, given.hosts)),
            Part("agents", f"troubled agents, {_AGENTS}", given.agents, 1, troubled_agents),
        ],
        [Part("workers", workers, given.workers, jobs, lambda folder: killed_workers(folder, given.hosts, given.lease))],
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the moments; it is printed")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="rounds of a part side by side; default: %(default)s")
    parser.add_argument("--parts", default=",".join(PARTS), help="which; default: %(default)s")
    parser.add_argument("--round", type=int, help="only the round of this number, of each of these parts")
    parser.add_argument("--rounds", type=int, default=300, help="of killed clients")
    parser.add_argument("--workers", type=int, default=300, help="rounds of killed workers")
    parser.add_argument("--agents", type=int, default=10, help=f"rounds of {_AGENTS} agents in trouble")
    parser.add_argument("--hosts", type=int, default=50, help="in each of these rounds")
    parser.add_argument("--lease", type=float, default=15, help="seconds of a worker")
    parser.add_argument("--points", type=int, default=10**6, help="at most so many crash points of each kind; default: all")
    parser.add_argument("--cut", type=float, default=60, help="seconds of the silent cut")
    parser.add_argument("--shells", default="dash,busybox,bash", help="for the crash points")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    print(f"seed {given.seed}, {os.cpu_count()} processors, {given.jobs} jobs, at a load of {os.getloadavg()[0]:.1f}", flush=True)
    folder, began, ended = Path(tempfile.mkdtemp(prefix="fleetflow-chaos-")), time.monotonic(), list[Part]()
    well = True
    for group in _groups(given):
        wanted = [part for part in group if part.rounds and part.name in given.parts.split(",")]
        well &= show(run(wanted, folder, given.seed, given.round))
        ended += wanted
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes, seed {given.seed}")
    for part in ended:
        print(part.line)
    if well:
        shutil.rmtree(folder)
    else:
        print(f"what is left of it is in {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
