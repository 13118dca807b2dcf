"""A thousand connections opened and closed leave nothing behind."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

from models.values import Host
from tests.executors.ssh.running import Runner, runner
from tests.servers.sshd import Sshd


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


async def rounds(
    run: Runner, hosts: list[Host], number: int, after_each: Callable[[], object]
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The counts after a first round, and after each of `number` more: hosts connected, idle for a moment, and closed by the pool."""

    async def one() -> None:
        await asyncio.gather(*(run(host, ":") for host in hosts))

    await one()
    warm = counts()
    samples = []
    for _ in range(number):
        await one()
        after_each()
        samples.append(await settle(warm))
    return warm, samples


async def test_a_thousand_connections_leave_no_descriptor_and_no_thread(sshd: Sshd) -> None:
    before = counts()
    async with runner(sshd.settings(ssh_connections=1)) as run:
        warm, samples = await rounds(run, sshd.fleet(100), 9, lambda: None)
    assert max(samples) <= warm, samples
    assert await settle(before) <= before


async def test_a_planted_leak_is_found(sshd: Sshd) -> None:
    with ExitStack() as kept:
        async with runner(sshd.settings(ssh_connections=1)) as run:  # of its connections some may still be closing when it is warm
            warm, samples = await rounds(run, sshd.fleet(5), 1, lambda: [kept.enter_context(socket.socket()) for _ in range(20)])
    assert max(samples) > warm
