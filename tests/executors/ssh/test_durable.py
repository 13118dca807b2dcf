"""Durable runs over a real sshd, with connections and clients that end in mid-run."""

import asyncio
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors.ssh.executor import Ssh
from models.values import Attempt, Command, OnDisconnect, Result
from tests.executors.ssh.killing import round_of, run_clients
from tests.executors.ssh.running import Recorded
from tests.servers.relay import Relay, run_relay
from tests.servers.sshd import Sshd

LINES = 30_000
PRINT = (
    f"i=0; while [ $i -lt 30 ]; do seq -f %09.0f $((i*{LINES // 30})) $((i*{LINES // 30}+{LINES // 30 - 1})); i=$((i+1)); sleep 0.05; done"
)
PRINTED = b"".join(b"%09d\n" % number for number in range(LINES))


@pytest.fixture
def relay(sshd: Sshd) -> Iterator[Relay]:
    with run_relay(sshd.port) as made:
        yield made


async def test_output_is_exact_after_connections_that_were_reset(sshd: Sshd, relay: Relay) -> None:
    ssh = Ssh(sshd.settings(ssh_host_key="off"))
    sink, attempt, host = Recorded(), Attempt(id=uuid.uuid4()), sshd.host(port=relay.port)
    running = asyncio.create_task(ssh.run(attempt, host, Command(script=f"{PRINT}; exit 4", on_disconnect=OnDisconnect.LINGER), sink))
    for size in (20_000, 120_000, 220_000):
        async with asyncio.timeout(20):
            while len(sink.stdout) < size:
                await asyncio.sleep(0.005)
        relay.reset()
    assert await asyncio.wait_for(running, 20) == Result(exit_code=4)
    assert sink.stdout == PRINTED
    assert not any(sink.gaps.values())
    await ssh.ack(attempt, host)
    await ssh.aclose()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_client_that_is_killed_loses_nothing_and_starts_nothing_twice(sshd: Sshd, tmp_path: Path, seed: int) -> None:
    with run_clients(sshd) as clients:
        states, _, found = round_of(clients, tmp_path / "round", 10, random.Random(seed), most=1)  # noqa: S311 - moments
    assert not found
    assert sum(states.values()) == 10
    assert not states["lost"]
