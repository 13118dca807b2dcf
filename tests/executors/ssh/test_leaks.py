"""A thousand connections opened and closed leave nothing behind."""

import asyncio
import os
import threading

from tests.executors.ssh.running import Runner, runner
from tests.servers.sshd import Sshd

ROUND = 100


def counts() -> tuple[int, int]:
    """Open descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - names are enough


async def settle(most: tuple[int, int]) -> tuple[int, int]:
    """The counts, once they have come down to `most`, or after 5 s."""
    for _ in range(250):
        now = counts()
        if now[0] <= most[0] and now[1] <= most[1]:
            break
        await asyncio.sleep(0.02)
    return now


async def connect_and_close(run: Runner, sshd: Sshd) -> None:
    """A round of hosts, each connection idle for a moment and then closed by the pool."""
    await asyncio.gather(*(run(host, ":") for host in sshd.fleet(ROUND)))


async def test_a_thousand_connections_leave_no_descriptor_and_no_thread(sshd: Sshd) -> None:
    before = counts()
    async with runner(sshd.settings(ssh_connections=1)) as run:
        await connect_and_close(run, sshd)
        warm = counts()
        samples = []
        for _ in range(9):
            await connect_and_close(run, sshd)
            samples.append(await settle(warm))
    assert max(samples) <= warm, samples
    assert await settle(before) <= before
