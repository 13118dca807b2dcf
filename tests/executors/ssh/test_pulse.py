"""Beats and keep-alives: what tells the host that we live, and us that the host does."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from executors.ssh.connect import Dialler, Handshake
from executors.ssh.connection import Connection
from executors.ssh.credentials import Keyring
from executors.ssh.host_keys import HostKeys
from executors.ssh.login import Credentials
from executors.ssh.plan import Planner
from executors.ssh.pulse import Pulse
from executors.ssh.slots import Slots
from executors.ssh.threads import Threads
from tests.executors.ssh.running import runner
from tests.servers.sshd import Sshd
from tests.until import until


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads("test")
    yield made
    made.close()


@pytest.fixture
def pulse(threads: Threads) -> Iterator[Pulse]:
    made = Pulse(threads, 0.05)
    yield made
    made.close()


async def connect(sshd: Sshd, threads: Threads, config: str = "") -> Connection:
    route = await Planner(sshd.settings(config), threads).route(sshd.host())
    dialler = Dialler(threads, Slots(1, 1), HostKeys(), Credentials(Keyring(None), None), 10)
    return Connection(route, await Handshake(dialler, "web1", route).over_tcp(), None)


async def test_beats_keep_silent_commands_alive(sshd: Sshd) -> None:
    async with runner(sshd.settings(beat_timeout=1)) as run:
        printed = await asyncio.gather(*(run.read(host, "sleep 3; echo done") for host in sshd.fleet(10)))
    assert printed == [b"done\n"] * 10


async def test_a_host_that_answers_keeps_its_connection(sshd: Sshd, threads: Threads, pulse: Pulse) -> None:
    connection = await connect(sshd, threads)
    connection.probe_seconds = 0.1
    began = connection.transport.heard
    pulse.add(connection)
    await asyncio.to_thread(until, lambda: connection.transport.heard > began + 1)
    assert connection.is_open
    connection.transport.cut()


async def test_a_host_that_answers_no_keep_alive_loses_its_connection(sshd: Sshd, threads: Threads, pulse: Pulse) -> None:
    before = set(sshd.sessions())
    connection = await connect(sshd, threads)
    stopped = set(sshd.sessions()) - before
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        connection.probe_seconds = 0.2
        pulse.add(connection)
        await asyncio.to_thread(until, lambda: not connection.is_open)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert "no answer to 3 keep-alives" in connection.why_closed


@pytest.mark.parametrize(
    ("config", "seconds", "probes"),
    [
        ("", 15, 3),
        ("ServerAliveInterval 7\nServerAliveCountMax 2", 7, 2),
        ("ServerAliveInterval 1m\nServerAliveInterval 9", 60, 3),
        ("ServerAliveInterval 0\nServerAliveCountMax 0", 15, 3),  # off in OpenSSH; we could then never tell that a host is gone
    ],
)
async def test_keep_alives_are_sent_as_the_configuration_says(
    sshd: Sshd, threads: Threads, config: str, seconds: float, probes: int
) -> None:
    connection = await connect(sshd, threads, config)
    assert (connection.probe_seconds, connection.probes) == (seconds, probes)
    connection.transport.cut()


async def test_all_connections_are_beaten_on_as_often_as_the_one_that_needs_it_most(threads: Threads) -> None:
    class Beating:
        calls = 0

        def pulse(self) -> None:
            self.calls += 1

    pulse, others = Pulse(threads, 60), [Beating(), Beating()]
    try:
        pulse.add(others[0], 0.05)  # type: ignore[arg-type]  # all that a pulse needs of a connection
        pulse.add(others[1])  # type: ignore[arg-type]
        await asyncio.to_thread(until, lambda: all(connection.calls > 3 for connection in others))
    finally:
        pulse.close()


async def test_a_connection_that_is_stuck_holds_up_no_other(threads: Threads) -> None:
    class Stuck:
        transport = None
        release = threading.Event()
        calls = 0

        def pulse(self) -> None:
            self.calls += 1
            self.release.wait(30)

    class Beating(Stuck):
        def pulse(self) -> None:
            self.calls += 1

    stuck, others = [Stuck() for _ in range(3)], [Beating() for _ in range(20)]
    pulse = Pulse(threads, 0.05)
    try:
        for connection in (*stuck, *others):
            pulse.add(connection)  # type: ignore[arg-type]  # all that a pulse needs of a connection
        await asyncio.to_thread(until, lambda: all(connection.calls > 20 for connection in others))
        assert [connection.calls for connection in stuck] == [1, 1, 1]
    finally:
        Stuck.release.set()
        pulse.close()
