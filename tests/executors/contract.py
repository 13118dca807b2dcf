"""What must hold for every executor. A test class inherits `Contract` and brings the fixtures `executor` and `host`.

The host of both must be this machine: processes are looked for in its /proc. Its grace must be at most 2 seconds.
"""

import asyncio
import hashlib
import os
import shlex
import signal
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from executors.protocol import Executor
from models.errors import LostError, UnreachableError, UsageError
from models.values import Attempt, Command, Host, Result, Stream
from tests.executors.processes import is_alive, marked
from tests.executors.sinks import Collector, Counter, Refusing

MIB = 1024 * 1024


class Runner:
    """Runs commands on one host with one executor, each as an attempt of its own."""

    def __init__(self, executor: Executor, host: Host) -> None:
        self.executor = executor
        self.host = host
        self.attempt = Attempt(id=uuid.uuid4())

    async def __call__(self, script: str, *, sink: Collector | None = None, **command: object) -> tuple[int, bytes, bytes]:
        """Run a script; the exit code and both streams."""
        sink = sink or Collector()
        result = await self.start(Command(script=script, **command), sink)
        return result.exit_code, sink.stdout, sink.stderr

    def start(self, command: Command, sink: Collector) -> Awaitable[Result]:
        self.attempt = Attempt(id=uuid.uuid4())
        return self.executor.run(self.attempt, self.host, command, sink)

    @asynccontextmanager
    async def background(self, script: str, sink: Collector | None = None, **command: object) -> "AsyncIterator[asyncio.Task[Result]]":
        """Run a script in a task of its own, which is over at the end."""
        task = asyncio.ensure_future(self.start(Command(script=script, **command), sink or Collector()))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def _killed(attempt: Attempt) -> list[int]:
    """Kill what is left of an attempt; who was found may have had children since."""
    left = marked(attempt)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# Each writes the ids of two processes that must not survive to $PIDS.
_TREES = {
    "grandchildren": 'sh -c \'sleep 1000 & echo $! >>"$PIDS"; wait\' & echo $! >>"$PIDS"; wait',
    "nohup": 'nohup sleep 1000 >/dev/null 2>&1 & echo $! $$ >>"$PIDS"; wait',
    "ignores TERM": 'trap "" TERM; sleep 1000 & echo $! $$ >>"$PIDS"; while :; do sleep 1; done',
    "setsid": 'setsid sh -c \'echo $$ >>"$PIDS"; exec sleep 1000\' & echo $$ >>"$PIDS"; wait',
    "daemon that ignores TERM": '(setsid sh -c \'trap "" TERM HUP; sleep 1000 & echo $! $$ >>"$PIDS"; wait\' &); sleep 1000',
    "without its environment": 'env -i sleep 1000 & echo $! $$ >>"$PIDS"; wait',
    "stopped": 'sleep 1000 & kill -STOP $!; echo $! $$ >>"$PIDS"; wait',
}

_SCRIPTS = {
    "no newline at the end": ("echo a", b"a\n"),
    "newlines at the end": ("echo a\n\n\n", b"a\n"),
    "a comment at the end": ("echo a # b", b"a\n"),
    "a backslash at the end": ("echo a \\\n", b"a\n"),
    "a comment first": ('# it\'s "a"\necho a', b"a\n"),
    "several lines": ("for x in 1 2; do\n  echo $x\ndone\n", b"1\n2\n"),
    "quotes": ("echo 'it''s' \"a \\\"b\\\"\" `echo c` \\'", b'its a "b" c \'\n'),
    "a heredoc": ("cat <<'E'\n$x `y` \\ 'z'\n\nE\n", b"$x `y` \\ 'z'\n\n"),
    "what shells expand": ("printf '%s\\n' '!!' '$$' '\\n' '%d' '~' '*'", b"!!\n$$\n\\n\n%d\n~\n*\n"),
    "bytes that are not UTF-8": ("printf %s '\udcff\udc81\x01\x7f é'", b"\xff\x81\x01\x7f \xc3\xa9"),
    "carriage returns": ("printf %s 'a\r\nb'", b"a\r\nb"),
    "the text that ends the wrapper": ("echo '\n#end\n.\n'", b"\n#end\n.\n\n"),
    "a function and an exit trap": ("trap 'echo bye' EXIT\nf() { echo f; }\nf", b"f\nbye\n"),
}


class Contract:
    """The behaviour that all executors share."""

    @pytest.fixture
    def run(self, executor: Executor, host: Host) -> Iterator[Runner]:
        runner = Runner(executor, host)
        yield runner
        left = marked(runner.attempt)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, "the test left processes behind"

    async def test_exit_code_and_both_streams(self, run: Runner) -> None:
        assert await run("echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")

    async def test_no_output(self, run: Runner) -> None:
        assert await run("true") == (0, b"", b"")

    @pytest.mark.parametrize(
        ("script", "code"),
        [("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -INT $$", 130), ("exec sh -c 'exit 7'", 7), ("no-such-program", 127)],
    )
    async def test_a_signal_is_128_and_its_number(self, run: Runner, script: str, code: int) -> None:
        assert (await run(script))[0] == code

    async def test_killed_by_a_signal_says_nothing_of_its_own(self, run: Runner) -> None:
        assert await run("echo a; kill -9 $$") == (137, b"a\n", b"")

    @pytest.mark.parametrize(("script", "output"), _SCRIPTS.values(), ids=_SCRIPTS)
    async def test_any_script(self, run: Runner, script: str, output: bytes) -> None:
        assert await run(script) == (0, output, b"")

    async def test_syntax_errors_are_the_commands(self, run: Runner) -> None:
        code, stdout, stderr = await run("if")
        assert (code, stdout) == (2, b"")
        assert b"yntax error" in stderr

    @pytest.mark.parametrize("size", [8 * 1024, 100 * 1024, MIB])
    async def test_a_long_script(self, run: Runner, size: int) -> None:
        script = f"# {'x' * (size // 2)}" + "\n#" * (size // 4) + "\necho end; cat; readlink /proc/self/fd/0"
        code, stdout, stderr = await run(script)
        assert (code, stdout, stderr) == (0, b"end\n/dev/null\n", b"")
        assert (await run(script, stdin=b"in\0put"))[1].startswith(b"end\nin\0put")

    @pytest.mark.parametrize("stdin", [b"text", b"line\n", b"-n %s \\n 'x'\n", bytes(range(256)) * 3, b"7" * 4096, b"x" * 4097], ids=len)
    async def test_stdin_is_exact(self, run: Runner, stdin: bytes) -> None:
        assert await run("cat", stdin=stdin) == (0, stdin, b"")

    async def test_octal_digits_after_a_binary_byte(self, run: Runner) -> None:
        assert (await run("cat", stdin=b"\x001\x0077"))[1] == b"\x001\x0077"

    async def test_no_stdin_is_empty(self, run: Runner) -> None:
        assert await run("cat; readlink /proc/self/fd/0") == (0, b"/dev/null\n", b"")

    @pytest.mark.parametrize("comment", [0, 200_000])
    async def test_big_stdin_with_short_and_long_script(self, run: Runner, comment: int) -> None:
        data = os.urandom(MIB)
        code, stdout, _ = await run(f"#{'x' * comment}\ncat", stdin=data)
        assert (code, hashlib.sha256(stdout).digest()) == (0, hashlib.sha256(data).digest())

    async def test_big_stdin_that_nobody_reads(self, run: Runner) -> None:
        assert await run("sleep 0.1; echo done", stdin=bytes(MIB)) == (0, b"done\n", b"")

    async def test_env_is_exact(self, run: Runner) -> None:
        env = {"ODD": 'it\'s "q" $HOME `x` \\ ! \n#\n\t é\udcff\x01', "EMPTY": "", "script": "s", "PATH": "/nowhere", "x": "-n"}
        code, stdout, _ = await run('printf \'%s,\' "$ODD" "$EMPTY" "$script" "$PATH" "$x"', env=env)
        assert code == 0
        assert stdout.decode(errors="surrogateescape").split(",") == [*env.values(), ""]

    async def test_env_reaches_children_and_marks_them(self, run: Runner) -> None:
        code, stdout, _ = await run("env; env FLEETFLOW=x env", env={"GREETING": "hi"})
        variables = stdout.decode().split("\n")
        assert code == 0
        assert variables.count("GREETING=hi") == 2
        assert variables.count(f"FLEETFLOW_ATTEMPT={run.attempt.id}") == 2
        assert not [name for name in variables if "ff_" in name or name.startswith("FLEETFLOW_SCRIPT")]

    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "é", "UID", "FLEETFLOW_ATTEMPT"])
    async def test_a_name_that_no_shell_takes_is_refused(self, run: Runner, name: str) -> None:
        with pytest.raises(UsageError):
            await run("true", env={name: "x"})

    async def test_a_secret_is_sent_and_in_no_argument_list(self, run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        canary = uuid.uuid4().hex
        monkeypatch.setenv("FLEETFLOW_SECRET_TOKEN", canary)
        sink = Collector()
        script = f'printf %s "$TOKEN"; : {canary}; touch {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.05; done'
        async with run.background(script, sink, env={"TOKEN": "secret:TOKEN"}, stdin=canary.encode()) as task:
            await until((tmp_path / "up").exists)
            assert not [line for line in command_lines() if canary.encode() in line]
            (tmp_path / "go").touch()
            assert (await task).exit_code == 0
        assert sink.stdout == canary.encode()

    async def test_a_missing_secret_starts_nothing(self, run: Runner) -> None:
        sink = Collector()
        with pytest.raises(UnreachableError, match="FLEETFLOW_SECRET_NOT_THERE"):
            await run("true", env={"A": "secret:NOT_THERE"}, sink=sink)
        assert not sink.has_started

    async def test_cwd(self, run: Runner, tmp_path: Path) -> None:
        folder = tmp_path / "it's a 'folder'\n-x"
        folder.mkdir()
        assert (await run("pwd", cwd=str(folder)))[1] == f"{folder}\n".encode()
        assert (await run("pwd"))[1] == f"{Path.home()}\n".encode()

    async def test_a_missing_cwd_starts_nothing(self, run: Runner, tmp_path: Path) -> None:
        sink = Collector()
        with pytest.raises(UnreachableError, match="nowhere"):
            await run(f"touch {tmp_path}/ran", cwd=f"{tmp_path}/nowhere", sink=sink)
        assert not sink.has_started
        assert not (tmp_path / "ran").exists()

    async def test_starting_is_awaited_before_anything_runs(self, run: Runner, tmp_path: Path) -> None:
        class Slow(Collector):
            async def starting(self) -> None:
                await asyncio.sleep(0.3)
                assert not (tmp_path / "ran").exists()
                self.has_started = True

        sink = Slow()
        assert (await run(f"touch {tmp_path}/ran", sink=sink))[0] == 0
        assert sink.has_started
        assert (tmp_path / "ran").exists()

    async def test_nothing_runs_when_the_start_cannot_be_committed(self, run: Runner, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="the database is gone"):
            await run(f"touch {tmp_path}/ran", sink=Refusing())
        assert (await run("true"))[0] == 0
        assert not (tmp_path / "ran").exists()

    async def test_a_cancel_before_the_start_gives_up_at_once(self, run: Runner, tmp_path: Path) -> None:
        class Never(Collector):
            async def starting(self) -> None:
                self.has_started = True
                await asyncio.Event().wait()

        sink = Never()
        async with run.background(f"touch {tmp_path}/ran", sink) as task:
            await until(lambda: sink.has_started)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not (tmp_path / "ran").exists()

    async def test_a_timeout_keeps_the_output(self, run: Runner) -> None:
        sink = Collector()
        script = "echo a; echo b >&2; trap 'echo bye; exit' TERM; while :; do sleep 0.05; done"

        async def time_out() -> None:
            async with asyncio.timeout(20) as deadline, run.background(script, sink) as task:
                await until(lambda: sink.stdout and sink.stderr)
                deadline.reschedule(0)
                await task

        with pytest.raises(TimeoutError):
            await time_out()
        assert sink.stdout == b"a\nbye\n"
        assert sink.stderr.startswith(b"b\n")  # the shell may say that its `sleep` was terminated

    @pytest.mark.parametrize("script", _TREES.values(), ids=_TREES)
    async def test_a_cancel_ends_the_whole_tree(self, run: Runner, tmp_path: Path, script: str) -> None:
        pids = tmp_path / "pids"
        async with run.background(script, env={"PIDS": str(pids)}) as task:
            await until(lambda: len(_words(pids)) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not [pid for pid in _words(pids) if is_alive(int(pid))]
            assert not marked(run.attempt)

    async def test_a_cancel_while_stdin_is_not_read(self, run: Runner) -> None:
        async with run.background("sleep 1000", stdin=bytes(MIB)) as task:
            await until(lambda: marked(run.attempt))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not marked(run.attempt)

    async def test_cancelled_twice_it_still_ends_the_tree(self, run: Runner) -> None:
        async with run.background("trap '' TERM; echo; while :; do sleep 0.1; done", sink := Collector()) as task:
            await until(lambda: sink.stdout)
            task.cancel()
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not marked(run.attempt)

    async def test_what_is_left_behind_on_purpose_lives_and_delays_nothing(self, run: Runner) -> None:
        async with asyncio.timeout(20):
            code, stdout, _ = await run("(sleep 1000; echo late) & echo $!")
        child = int(stdout)
        try:
            assert code == 0
            assert is_alive(child)
        finally:
            await until(lambda: not _killed(run.attempt))

    @pytest.mark.parametrize("script", ["kill 0; sleep 1000", "trap 'kill 0' EXIT", "kill -HUP 0; sleep 1000"])
    async def test_a_command_may_end_its_own_group(self, run: Runner, script: str) -> None:
        code, stdout, stderr = await run(f"echo a; {script}")
        assert code in {128 + signal.SIGTERM, 128 + signal.SIGHUP}
        assert (stdout, stderr) == (b"a\n", b"")

    async def test_the_lifeline_survives_a_signal_to_the_group(self, run: Runner) -> None:
        script = "trap : TERM HUP INT USR1 USR2; for s in TERM HUP INT USR1 USR2; do kill -$s 0; done; echo; while :; do sleep 0.1; done"
        async with run.background(script, sink := Collector()) as task:
            await until(lambda: sink.stdout)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not marked(run.attempt)

    async def test_kill_9_of_the_group_is_lost(self, run: Runner) -> None:
        with pytest.raises(LostError):
            await run("kill -9 0")

    async def test_50_mib_in_bounded_memory(self, run: Runner) -> None:
        sink = Counter()
        tracemalloc.start()
        try:
            assert (await run(f"head -c {50 * MIB} /dev/zero", sink=sink))[0] == 0
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sink.sizes == {Stream.STDOUT: 50 * MIB, Stream.STDERR: 0}
        assert peak < 16 * MIB

    async def test_10_mib_on_both_streams_at_once(self, run: Runner) -> None:
        one, two = "yes '\x1e one' | head -c 10485760", "yes two | head -c 10485760 >&2"
        code, stdout, stderr = await run(f"{one} & {two}; wait")
        assert code == 0
        assert hashlib.sha256(stdout).digest() == hashlib.sha256((b"\x1e one\n" * 2_000_000)[: 10 * MIB]).digest()
        assert hashlib.sha256(stderr).digest() == hashlib.sha256((b"two\n" * 3_000_000)[: 10 * MIB]).digest()

    async def test_bytes_of_all_kinds(self, run: Runner, tmp_path: Path) -> None:
        data = bytes(range(256)) * 1000 + b"\x1e" * 100 + b"\r\n\x1b[2J\0\xff"
        (tmp_path / "data").write_bytes(data)
        assert await run(f"cat {shlex.quote(str(tmp_path / 'data'))}") == (0, data, b"")

    async def test_a_line_of_5_mib(self, run: Runner) -> None:
        code, stdout, _ = await run("head -c 5242880 /dev/zero | tr '\\0' x")
        assert (code, len(stdout), stdout.count(b"x")) == (0, 5 * MIB, 5 * MIB)

    async def test_many_at_once(self, run: Runner) -> None:
        answers = await asyncio.gather(*(run(f"echo {number}; exit {number}") for number in range(30)))
        assert answers == [(number, f"{number}\n".encode(), b"") for number in range(30)]

    async def test_it_is_what_a_login_gives(self, run: Runner) -> None:
        script = 'echo "$HOME"; umask; env | grep -E "^(PREFECT_|FLEETFLOW_SECRET|PYTEST)" | wc -l'
        _, stdout, _ = await run(script)
        home, umask, leaked = stdout.decode().split()
        assert (home, int(umask, 8) & 0o700, leaked) == (str(Path.home()), 0, "0")


def command_lines() -> list[bytes]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    return lines
