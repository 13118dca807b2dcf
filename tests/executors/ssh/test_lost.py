"""Runs whose outcome nobody knows: they are lost, and never called failed."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from models.errors import ConnectionLostError, EndNotConfirmedError
from tests.executors.processes import is_alive
from tests.executors.ssh.running import Recorded, runner
from tests.servers.sshd import Sshd
from tests.until import until


async def test_a_shell_killed_on_the_host_is_lost_though_a_child_keeps_the_output_open(sshd: Sshd) -> None:
    sink = Recorded()
    async with runner(sshd.settings()) as run:
        with pytest.raises(ConnectionLostError, match="its shell was killed"):
            async with asyncio.timeout(5):
                await run(sshd.host(), "echo before; setsid sleep 8 & sleep 0.2; kill -9 0", sink)
        assert sink.stdout == b"before\n"
        assert await run.read(sshd.host(), "echo again") == b"again\n"


async def test_a_connection_that_ends_in_mid_run_is_lost_and_its_output_is_kept(sshd: Sshd) -> None:
    sink = Recorded()
    async with runner(sshd.settings()) as run:
        running = asyncio.create_task(run(sshd.host(), "echo before; sleep 30", sink))
        await sink.printed(b"before")
        for pid in sshd.sessions():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionLostError, match="the connection was lost"):
            await asyncio.wait_for(running, 5)
    assert sink.stdout == b"before\n"


async def test_a_host_stopped_in_mid_run_costs_its_deadline_and_a_little_more(sshd: Sshd) -> None:
    sink = Recorded()
    async with runner(sshd.settings(grace=0.5)) as run:
        running = asyncio.create_task(run(sshd.host(), "echo before; sleep 30", sink))
        await sink.printed(b"before")
        stopped = sshd.sessions()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert await run.read(sshd.host("web2", "127.0.0.2"), "echo hi") == b"hi\n"
            began = time.monotonic()
            running.cancel()
            with pytest.raises(EndNotConfirmedError):
                await running
            assert time.monotonic() - began < 0.5 + 2 + 1
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)


async def test_a_cancel_ends_the_command_on_the_host_and_the_connection_serves_on(sshd: Sshd, tmp_path: Path) -> None:
    sink = Recorded()
    async with runner(sshd.settings()) as run:
        running = asyncio.create_task(run(sshd.host(), f"echo $$ > {tmp_path}/pid; echo before; sleep 300", sink))
        await sink.printed(b"before")
        sessions = sshd.sessions()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not is_alive(pid), 1)
        assert await run.read(sshd.host(), "echo again") == b"again\n"
        assert sshd.sessions() == sessions
