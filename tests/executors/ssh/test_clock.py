"""The clock that the runs on one connection share."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.executors.processes import is_alive
from tests.executors.ssh.running import Recorded, Runner, runner
from tests.executors.ssh.warm import client
from tests.servers.sshd import Sshd, run_sshd
from tests.stacks import marked
from tests.until import until

BEAT_TIMEOUT = 67  # a sleep of so many seconds is one of our clocks


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def below(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *below(child))]


def clocks(pid: int) -> list[int]:
    """The clocks that run below a process."""
    line = f"sleep\0{BEAT_TIMEOUT}\0"
    return [found for found in below(pid) if Path(f"/proc/{found}/cmdline").exists() and Path(f"/proc/{found}/cmdline").read_text() == line]


async def soon(holds: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(until, holds, 10, what)


async def connect(sshd: Sshd, run: Runner, **host: object) -> int:
    """The server of a connection that has served one run."""
    before = set(sshd.sessions())
    await run(sshd.host(**host), "true")
    (server,) = set(sshd.sessions()) - before
    return server


async def test_all_later_runs_share_the_clock_of_the_first(sshd: Sshd) -> None:
    async with runner(sshd.settings(beat_timeout=BEAT_TIMEOUT)) as run:
        server = await connect(sshd, run)
        await soon(lambda: len(clocks(server)) == 1, "the warden")
        (warden,) = children(server)
        sinks = [Recorded(), Recorded()]
        running = [asyncio.create_task(run(sshd.host(), "echo up; read -r line; sleep 0.2; exit 3", sink, stdin=b"x\n")) for sink in sinks]
        for sink in sinks:
            await sink.printed(b"up")
        assert len(children(server)) == 3
        assert len(clocks(server)) == 1
        assert [(await task).exit_code for task in running] == [3, 3]
        await soon(lambda: children(server) == [warden], "nothing but the warden")
    await soon(lambda: not is_alive(warden), "its end with the connection")


async def test_those_who_lean_on_a_warden_that_is_killed_count_for_themselves(sshd: Sshd) -> None:
    async with runner(sshd.settings(beat_timeout=BEAT_TIMEOUT)) as run:
        server = await connect(sshd, run)
        (warden,) = children(server)
        running = [asyncio.create_task(run(sshd.host(), "echo up; sleep 1; exit 3", sink := Recorded())) for _ in range(2)]
        await sink.printed(b"up")
        os.killpg(warden, signal.SIGKILL)
        await soon(lambda: len(clocks(server)) == 2, "a clock for each")
        assert [(await task).exit_code for task in running] == [3, 3]
        assert await run.read(sshd.host(), "echo on") == b"on\n"
        await soon(lambda: len(children(server)) == len(clocks(server)) == 1, "the next warden")


def test_a_later_run_ends_with_its_client(sshd: Sshd) -> None:
    with client(sshd, "root", 60) as (process, word):
        process.kill()
        until(lambda: not marked(word), 15, "the end of the command")


async def test_an_idle_connection_has_no_warden_and_outlives_every_silence(sshd: Sshd) -> None:
    async with runner(sshd.settings(beat_timeout=0.5)) as run:
        server = await connect(sshd, run)
        await soon(lambda: not children(server), "the warden's end")
        await asyncio.sleep(1)  # more than beat_timeout
        assert await run.read(sshd.host(), "echo on") == b"on\n"
        assert server in sshd.sessions()


async def test_beats_keep_the_warden_while_a_run_leans_on_it(sshd: Sshd) -> None:
    async with runner(sshd.settings(beat_timeout=1)) as run:
        await connect(sshd, run)
        assert await run.read(sshd.host(), "sleep 3; echo done") == b"done\n"


async def test_what_a_run_left_behind_is_told_that_nobody_listens(sshd: Sshd, tmp_path: Path) -> None:
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    talk = f"trap '' PIPE; {wait}; while echo late 2>/dev/null; do sleep 0.05; done; touch {tmp_path}/told"
    async with runner(sshd.settings(beat_timeout=1)) as run:
        assert await run.read(sshd.host(), f"({talk}) & echo now") == b"now\n"
        (tmp_path / "go").touch()
        async with asyncio.timeout(20):
            while not (tmp_path / "told").exists():  # so that it is not for want of use that the warden goes
                assert await run.read(sshd.host(), "echo then") == b"then\n"


async def test_what_a_run_left_behind_outlives_the_warden(sshd: Sshd) -> None:
    async with runner(sshd.settings()) as run:
        child = int(await run.read(sshd.host(), "sleep 300 >/dev/null 2>&1 & echo $!"))
        await run(sshd.host(), "true")
    await soon(lambda: not [pid for pid in sshd.sessions() if children(pid)], "the end of the connection")
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)


async def test_a_server_that_takes_one_session_refuses_no_run_but_the_second(tmp_path: Path) -> None:
    with run_sshd(tmp_path / "sshd", ["MaxSessions 1"]) as sshd:
        async with runner(sshd.settings()) as run:
            server = await connect(sshd, run)
            refused = []
            for number in range(3):
                assert await run.read(sshd.host(), f"echo {number}") == b"%d\n" % number
                await soon(lambda: sshd.log.count("Close session") == sshd.log.count("Starting session"), "its end on the server as well")
                refused.append(sshd.log.count("no more sessions"))
            assert sshd.sessions() == [server]
        assert refused[0] == refused[-1] > 0


async def test_a_server_that_takes_two_sessions_runs_two_commands(tmp_path: Path) -> None:
    meet = f"touch {tmp_path}/$ME; until [ -e {tmp_path}/1 -a -e {tmp_path}/2 ]; do sleep 0.02; done; echo met"
    with run_sshd(tmp_path / "sshd", ["MaxSessions 2"]) as sshd:
        async with runner(sshd.settings()) as run:
            server = await connect(sshd, run)
            printed = await asyncio.gather(*(run.read(sshd.host(), meet, env={"ME": me}) for me in "12"))
            assert printed == [b"met\n"] * 2
            await soon(lambda: not children(server), "the warden's end")
            (tmp_path / "1").unlink()
            (tmp_path / "2").unlink()
            printed = await asyncio.gather(*(run.read(sshd.host(), meet, env={"ME": me}) for me in "12"))
            assert printed == [b"met\n"] * 2


async def test_where_a_program_stands_between_the_server_and_the_command_each_run_counts_for_itself(tmp_path: Path) -> None:
    with run_sshd(tmp_path / "sshd", ['ForceCommand sh -c "$SSH_ORIGINAL_COMMAND"; exit $?']) as sshd:
        async with runner(sshd.settings(beat_timeout=BEAT_TIMEOUT)) as run:
            server = await connect(sshd, run)
            await soon(lambda: not children(server), "its end")
            sink = Recorded()
            running = asyncio.create_task(run(sshd.host(), "echo up; sleep 0.3; exit 3", sink))
            await sink.printed(b"up")
            assert len(clocks(server)) == 1
            assert (await running).exit_code == 3
