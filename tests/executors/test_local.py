"""Commands on the worker's own machine."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from executors.local import Local
from models.errors import UnreachableError
from models.values import Attempt, Host
from tests.executors.contract import Contract, Runner, until
from tests.executors.contract_scripts import ScriptContract
from tests.executors.processes import marked
from tests.executors.sinks import Collector


class TestLocal(Contract, ScriptContract):
    """The contract, and what is special about children."""

    @pytest.fixture
    def executor(self) -> Local:
        return Local(grace=1, beat_timeout=30)

    @pytest.fixture
    def host(self) -> Host:
        return Host(name="localhost")

    async def test_a_command_that_obeys_term_ends_before_the_grace(self, host: Host) -> None:
        run = Runner(Local(grace=60, beat_timeout=30), host)
        async with run.background("echo; sleep 1000", sink := Collector()) as task:
            await until(lambda: sink.stdout)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert time.monotonic() - began < 20

    async def test_the_environment_is_a_clean_one(self, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLEETFLOW_SECRET_X", "canary")
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "canary")
        monkeypatch.setenv("SOMETHING", "canary")
        _, stdout, _ = await run("env")
        names = {line.partition("=")[0] for line in stdout.decode().splitlines()}
        names = {name for name in names if not name.startswith("LC_")}
        assert {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "FLEETFLOW_ATTEMPT"} <= names
        assert names <= {
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "PATH",
            "LANG",
            "TZ",
            "TMPDIR",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "_",
            "FLEETFLOW_ATTEMPT",
        }

    async def test_no_descriptor_of_ours_gets_to_the_command(self, run: Runner) -> None:
        assert (await run("ls /proc/self/fd"))[1] == b"0\n1\n2\n3\n"  # 3 is the folder itself
        assert (await run("ls /proc/self/fd", stdin=b"small"))[1] == b"0\n1\n2\n3\n"
        assert (await run("ls /proc/self/fd", stdin=b"x" * 5000))[1] == b"0\n1\n2\n3\n"

    async def test_beats_keep_a_silent_command_alive(self, host: Host) -> None:
        run = Runner(Local(grace=1, beat_timeout=1), host)
        assert await run("sleep 2.5; echo done") == (0, b"done\n", b"")

    async def test_a_thousand_runs_leave_no_descriptor_and_no_thread(self, run: Runner) -> None:
        await run("true")
        before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
        for _ in range(40):
            await asyncio.gather(*(run("true") for _ in range(25)))
        await until(lambda: threading.active_count() <= before[1])
        assert len(list(Path("/proc/self/fd").iterdir())) == before[0]

    async def test_a_hundred_at_once(self, run: Runner) -> None:
        answers = await asyncio.gather(*(run(f"sleep 0.2; echo {number}") for number in range(100)))
        assert answers == [(0, f"{number}\n".encode(), b"") for number in range(100)]

    async def test_no_room_for_stdin_starts_nothing(self, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
        sink = Collector()
        with pytest.raises(UnreachableError, match="no room"):
            await Runner(Local(grace=1, beat_timeout=30), host)("cat", stdin=bytes(10_000), sink=sink)
        assert not sink.has_started

    async def test_kill_9_of_the_worker_ends_the_tree(self) -> None:
        attempt = Attempt(id=uuid.uuid4())
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, str(attempt.id)], stdout=subprocess.PIPE)
        try:
            assert worker.stdout
            assert worker.stdout.readline() == b"up\n"
            assert len(marked(attempt)) >= 2
        finally:
            worker.kill()
            worker.communicate()
        try:
            await until(lambda: not marked(attempt), 10)
        finally:
            for pid in marked(attempt):
                os.kill(pid, signal.SIGKILL)


_WORKER = """
import asyncio, sys, uuid
from executors.local import Local
from models.values import Attempt, Command, Host
class Sink:
    async def starting(self): pass
    def step(self, what): pass
    def allow(self, seconds): pass
    def output(self, stream, data): print("up", flush=True)
command = Command(script="trap '' TERM; setsid sleep 1000 & sleep 0.1; echo; sleep 1000")
asyncio.run(Local(grace=1, beat_timeout=30).run(Attempt(id=uuid.UUID(sys.argv[1])), Host(name="localhost"), command, Sink()))
"""
