"""A few rounds of killed workers; `make chaos` runs hundreds."""

import random
from pathlib import Path

import pytest

from tests.crew import run_crew
from tests.dying import death_of_a_worker
from tests.servers.prefect import PrefectServer
from tests.servers.sshd import at_home, run_sshd

ROUNDS, HOSTS, LEASE = 3, 50, 2.0
MOMENTS = 2.5  # seconds of a task within which its worker is killed


@pytest.mark.timeout(300)
def test_whenever_a_worker_is_killed_its_task_ends_and_what_is_told_of_it_is_true(prefect_server: PrefectServer, tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311 - the same moments each time
    with run_sshd(tmp_path / "sshd", at_home(tmp_path / "user")) as sshd, run_crew(prefect_server, sshd, tmp_path / "crew", LEASE) as crew:
        for number in range(ROUNDS):
            crew.prepare(by_lease=number == 1)
            death = death_of_a_worker(crew, tmp_path / f"death-{number}", HOSTS, chance.uniform(0, MOMENTS))
            assert not [*death.found, *death.late(LEASE)]
            assert death.states == {"failed": HOSTS}, "each host could tell: of none is anything lost"
