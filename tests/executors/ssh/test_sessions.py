"""How connections are shared, kept, replaced and given up."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from models.errors import UnreachableError
from tests.executors.ssh.running import runner
from tests.servers.sshd import Sshd, run_sshd
from tests.until import until


async def test_runs_on_one_host_share_one_connection(sshd: Sshd) -> None:
    before = set(sshd.sessions())
    async with runner(sshd.settings()) as run:
        printed = await asyncio.gather(*(run.read(sshd.host(), "sleep 0.2; echo hi") for _ in range(8)))
        printed.append(await run.read(sshd.host(), "echo hi"))
        assert len(set(sshd.sessions()) - before) == 1
    assert printed == [b"hi\n"] * 9


async def test_a_broken_idle_connection_is_replaced_unseen(sshd: Sshd) -> None:
    async with runner(sshd.settings()) as run:
        await run(sshd.host(), "true")
        for pid in sshd.sessions():
            os.kill(pid, signal.SIGKILL)
        assert await run.read(sshd.host(), "echo hi") == b"hi\n"


async def test_a_server_that_takes_one_session_at_a_time(tmp_path: Path) -> None:
    with run_sshd(tmp_path / "sshd", ["MaxSessions 1"]) as sshd:
        async with runner(sshd.settings()) as run:
            printed = await asyncio.gather(*(run.read(sshd.host(), f"sleep 0.1; echo {number}") for number in range(12)))
            assert printed == [f"{number}\n".encode() for number in range(12)]
            assert 1 <= len(sshd.sessions()) <= 4


async def test_a_server_that_opens_no_session(tmp_path: Path) -> None:
    with run_sshd(tmp_path / "sshd", ["MaxSessions 0"]) as sshd:
        async with runner(sshd.settings()) as run:
            with pytest.raises(UnreachableError, match="refuses to open a session"):
                await asyncio.wait_for(run(sshd.host(), "true"), 20)


async def test_a_hundred_hosts_at_once_behind_a_server_that_turns_connections_away(tmp_path: Path) -> None:
    with run_sshd(tmp_path / "sshd", ["MaxStartups 10:30:100"]) as sshd:
        async with runner(sshd.settings()) as run:
            printed = await asyncio.gather(*(run.read(host, "echo hi") for host in sshd.fleet(100)))
    assert printed == [b"hi\n"] * 100


async def test_an_unused_connection_is_closed_after_a_while(sshd: Sshd) -> None:
    before = set(sshd.sessions())
    async with runner(sshd.settings(ssh_idle=0.3)) as run:
        await run(sshd.host(), "true")
        await asyncio.to_thread(until, lambda: set(sshd.sessions()) <= before, 5)


async def test_the_least_recently_used_connection_goes_when_there_are_too_many(sshd: Sshd) -> None:
    before = set(sshd.sessions())
    async with runner(sshd.settings(ssh_connections=2)) as run:
        for host in sshd.fleet(4):
            await run(host, "true")
        await asyncio.to_thread(until, lambda: len(set(sshd.sessions()) - before) == 2, 5)


async def test_a_cancelled_run_does_not_take_the_handshake_from_those_who_share_it(sshd: Sshd) -> None:
    async with runner(sshd.settings()) as run:
        first = asyncio.create_task(run.read(sshd.host(), "echo hi"))
        others = [asyncio.create_task(run.read(sshd.host(), "echo hi")) for _ in range(3)]
        await asyncio.sleep(0.005)
        first.cancel()
        assert await asyncio.gather(*others) == [b"hi\n"] * 3


async def test_a_handshake_that_nobody_waits_for_is_given_up(sshd: Sshd) -> None:
    ended = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    async with server, runner(sshd.settings()) as run:
        waiting = [asyncio.create_task(run(sshd.host(port=server.sockets[0].getsockname()[1]), "true")) for _ in range(3)]
        await asyncio.sleep(0.2)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.wait(waiting[:2])
        await asyncio.sleep(0.2)
        assert not ended.is_set()
        waiting[2].cancel()
        await asyncio.wait_for(ended.wait(), 2)
        assert all(task.cancelled() for task in waiting)


async def test_runs_given_up_at_any_moment_leave_no_session(sshd: Sshd) -> None:
    before = set(sshd.sessions())
    async with runner(sshd.settings()) as run:
        for delay in (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05):
            running = asyncio.create_task(run(sshd.host(), "sleep 30"))
            await asyncio.sleep(delay)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert await run.read(sshd.host(), "echo hi") == b"hi\n"
        await asyncio.to_thread(until, lambda: len(set(sshd.sessions()) - before) == 1, 5)
    await asyncio.to_thread(until, lambda: set(sshd.sessions()) <= before, 5)
