"""The wrapper over pipes, with every sh that hosts have."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from executors.lifeline import ALONE, BEAT, GO, LOCAL_ARGV, REMOTE_LINE
from models.values import Stream
from tests.executors.processes import is_alive, marked, members, state
from tests.executors.wrapped import Wrapped
from tests.programs import need
from tests.until import until

_SHELLS = ["dash", "bash", "busybox"]


@pytest.fixture(params=_SHELLS)
def sh(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A shell under the name `sh`: so bash keeps to POSIX, and busybox knows what it is."""
    folder = tmp_path / request.param
    folder.mkdir()
    (folder / "sh").symlink_to(need(request.param))
    return str(folder / "sh")


@pytest.fixture
def wrap(sh: str) -> Iterator[Callable[..., Wrapped]]:
    made = []

    def make(script: str, **options: object) -> Wrapped:
        made.append(Wrapped(sh, script, **options))
        return made[-1]

    yield make
    for wrapped in made:
        wrapped.close()


def test_nothing_runs_before_go(wrap: Callable[..., Wrapped], tmp_path: Path) -> None:
    wrapped = wrap(f"touch {tmp_path}/ran; echo hi; echo err >&2; exit 4", stdin=b"x" * 5000).prepare()
    assert wrapped.session.ready
    assert not (tmp_path / "ran").exists()
    wrapped.send(GO)
    assert wrapped.read_to_the_end() == 4
    assert wrapped.output == {Stream.STDOUT: b"hi\n", Stream.STDERR: b"err\n"}
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("sent", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_a_lifeline_that_ends_before_go_leaves_nothing(wrap: Callable[..., Wrapped], tmp_path: Path, sent: float) -> None:
    wrapped = wrap(f"touch {tmp_path}/ran", stdin=b"x" * 5000, environment={"TMPDIR": str(tmp_path)})
    wrapped.send(wrapped.session.payload[: int(len(wrapped.session.payload) * sent)])
    wrapped.hang_up()
    assert wrapped.process.wait(timeout=10) != 0
    assert not members(wrapped.pid)
    assert {path.name for path in tmp_path.iterdir()} <= set(_SHELLS)


def test_anything_but_go_starts_nothing(wrap: Callable[..., Wrapped], tmp_path: Path) -> None:
    wrapped = wrap(f"touch {tmp_path}/ran").prepare()
    wrapped.send(b"stop\n")
    assert wrapped.process.wait(timeout=10) != 0
    assert not (tmp_path / "ran").exists()


def test_beats_before_go_start_nothing_and_harm_nothing(wrap: Callable[..., Wrapped], tmp_path: Path) -> None:
    wrapped = wrap(f"touch {tmp_path}/ran").prepare()
    wrapped.send(BEAT * 3)
    assert not (tmp_path / "ran").exists()
    wrapped.send(BEAT + GO)
    assert wrapped.read_to_the_end() == 0
    assert (tmp_path / "ran").exists()


def test_the_noise_of_a_profile_is_cut_on_both_streams(wrap: Callable[..., Wrapped], sh: str) -> None:
    noisy = [sh, "-c", f"echo noise; echo noise >&2; printf 'no newline \036'; {REMOTE_LINE}"]
    wrapped = wrap("printf out; printf err >&2", argv=noisy).start()
    assert wrapped.read_to_the_end() == 0
    assert wrapped.output == {Stream.STDOUT: b"out", Stream.STDERR: b"err"}
    assert wrapped.session.last_words == b"noise\n"


@pytest.mark.parametrize("login", ["dash", "bash", "busybox", "tcsh", "fish"])
def test_login_shells_pass_the_remote_line_on(login: str) -> None:
    argv = [need(login), *(["sh"] if login == "busybox" else []), "-c", REMOTE_LINE]
    wrapped = Wrapped("/bin/sh", "printf '%s' '!! \\ $x'; cat", argv=argv, stdin=b"\0in").start()
    try:
        assert wrapped.read_to_the_end() == 0
        assert wrapped.output[Stream.STDOUT] == b"!! \\ $x\0in"
    finally:
        wrapped.close()


_TREE = "trap '' TERM; sleep 1000 & setsid sh -c 'trap \"\" TERM; echo up; sleep 1000' & nohup sleep 1000 2>&1 & wait; sleep 1000"


@pytest.mark.parametrize("stdin", [b"", bytes(1024 * 1024)], ids=["no stdin", "1 MiB unread"])
def test_the_end_of_the_lifeline_ends_all(wrap: Callable[..., Wrapped], stdin: bytes) -> None:
    wrapped = wrap(_TREE, stdin=stdin).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    wrapped.hang_up()
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)
    until(lambda: not members(wrapped.pid), what="the end of the group")
    assert wrapped.session.exit_code is None


def test_an_end_that_is_broken_off_is_not_reported(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("trap '' TERM; echo up; while :; do sleep 0.1; done", grace=60).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    wrapped.hang_up()
    until(lambda: state(wrapped.pid) == "T", what="main to be stopped")
    until(lambda: not _kill(set(members(wrapped.pid)) - {wrapped.pid}), what="the end of all but main")
    wrapped.read_until(lambda: state(wrapped.pid) == "T")
    assert wrapped.process.poll() is None
    assert wrapped.session.exit_code is None


def _kill(pids: Iterable[int]) -> list[int]:
    """Kill these, and say whom."""
    killed = list(pids)
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return killed


@pytest.mark.parametrize("stdin", [b"", bytes(1024 * 1024)], ids=["no stdin", "1 MiB unread"])
def test_silence_ends_all(wrap: Callable[..., Wrapped], stdin: bytes) -> None:
    wrapped = wrap(_TREE, stdin=stdin, beat_timeout=1).start()
    began = time.monotonic()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert 0.9 < time.monotonic() - began < 1 + 1 + 3
    assert not marked(wrapped.attempt)
    until(lambda: not members(wrapped.pid), what="the end of the group")


def test_silence_after_beats_ends_all(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("echo up; sleep 1000", beat_timeout=1).start()
    began = time.monotonic()
    wrapped.read_until(lambda: time.monotonic() > began + 1.5, beat=0.1)
    assert wrapped.process.poll() is None
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)


def test_beats_keep_it_alive(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("sleep 2.5; echo done", beat_timeout=1).start()
    assert wrapped.read_to_the_end(beat=0.2) == 0
    assert wrapped.output[Stream.STDOUT] == b"done\n"


def test_one_that_leans_counts_no_silence_until_it_is_alone(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap(_TREE, beat_timeout=1, server=os.getpid()).start()
    began = time.monotonic()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT] and time.monotonic() > began + 2)
    assert wrapped.process.poll() is None
    wrapped.send(BEAT + ALONE)
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)


def test_one_that_leans_ends_with_its_lifeline(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap(_TREE, server=os.getpid()).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    wrapped.hang_up()
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)
    until(lambda: not members(wrapped.pid), what="the end of the group")


def test_one_that_leans_leaves_nothing_and_ends_nothing_that_was_left_on_purpose(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("sleep 1000 & echo $!", server=os.getpid()).start()
    wrapped.send(BEAT)
    assert wrapped.read_to_the_end() == 0
    wrapped.hang_up()
    assert members(wrapped.pid) == [int(wrapped.output[Stream.STDOUT])]


def test_nobody_leans_on_the_clock_of_another_server(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("echo up; sleep 1000", beat_timeout=1, server=os.getppid()).start()
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)


def test_nobody_stays_whose_parent_serves_more_than_one_connection(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("true")
    wrapped.session.share_clock(server=None)
    assert wrapped.start().read_to_the_end() == 0
    assert wrapped.session.server is None
    assert not members(wrapped.pid)


def test_a_burst_of_beats_harms_nothing(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("sleep 0.5; echo done", beat_timeout=1).start()
    for _ in range(200):
        wrapped.send(BEAT)
    assert wrapped.read_to_the_end() == 0
    assert not members(wrapped.pid)


def test_a_beat_at_the_very_end_delays_nothing(wrap: Callable[..., Wrapped]) -> None:
    for number in range(20):
        wrapped = wrap("sleep 0.1; echo done").start()
        wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])  # noqa: B023 - called before the next round
        time.sleep(number % 5 / 2000)  # to meet it in each of its steps
        with suppress(BrokenPipeError):
            wrapped.send(BEAT)
        assert wrapped.read_to_the_end(seconds=8) == 0


def test_nothing_of_the_wrapper_is_left_after_a_normal_end(wrap: Callable[..., Wrapped], tmp_path: Path) -> None:
    for number in range(40):
        wrapped = wrap(f"sleep 0.00{number % 10}", stdin=b"x" * 5000 * (number % 2), environment={"TMPDIR": str(tmp_path)}).start()
        with suppress(BrokenPipeError):  # it may have ended already
            wrapped.send(BEAT * (number % 3))
        assert wrapped.read_to_the_end(seconds=10) == 0
        assert not members(wrapped.pid)
    assert {path.name for path in tmp_path.iterdir()} <= set(_SHELLS)


def test_what_the_command_leaves_behind_on_purpose_lives(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("sleep 1000 & echo $!").start()
    assert wrapped.read_to_the_end() == 0
    wrapped.hang_up()
    child = int(wrapped.output[Stream.STDOUT])
    assert members(wrapped.pid) == [child]
    assert is_alive(child)


def test_its_late_output_is_dropped(wrap: Callable[..., Wrapped], tmp_path: Path) -> None:
    script = f"(until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo late; echo late >&2; touch {tmp_path}/said) & echo now"
    wrapped = wrap(script).start()
    assert wrapped.read_to_the_end() == 0
    (tmp_path / "go").touch()
    wrapped.read_until((tmp_path / "said").exists)
    assert wrapped.output == {Stream.STDOUT: b"now\n", Stream.STDERR: b""}


_SIGNALS = "TERM HUP INT QUIT USR1 USR2 ALRM PIPE"


@pytest.mark.parametrize("ends_by", ["silence", "end of the lifeline"])
def test_signals_to_the_group_do_not_disable_the_lifeline(wrap: Callable[..., Wrapped], ends_by: str) -> None:
    script = f"trap : {_SIGNALS}; for name in {_SIGNALS}; do kill -$name 0; done; echo up; while :; do sleep 0.1; done"
    wrapped = wrap(script, beat_timeout=1 if ends_by == "silence" else 60, grace=0.2).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    if ends_by != "silence":
        wrapped.hang_up()
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)


def test_a_killed_sleep_is_no_silence(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("for p in $(pgrep -x sleep -s 0); do kill -9 $p; done; sleep 0.5; echo done").start()
    assert wrapped.read_to_the_end() == 0
    assert wrapped.output[Stream.STDOUT] == b"done\n"


def test_without_a_process_group_of_its_own_it_makes_one(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap(_TREE, group=False).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    assert os.getpgid(wrapped.pid) == wrapped.pid
    wrapped.hang_up()
    assert wrapped.process.wait(timeout=10) == -signal.SIGKILL
    assert not marked(wrapped.attempt)


def test_the_command_starts_with_no_signal_ignored(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("grep SigIgn /proc/self/status").start()
    assert wrapped.read_to_the_end() == 0
    assert int(wrapped.output[Stream.STDOUT].split()[1], 16) & ~_ignored_by_ourselves() == 0


def _ignored_by_ourselves() -> int:
    """What pytest's own parent had ignored is inherited by all; Python restores PIPE and XFSZ in its children."""
    found = re.search(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())
    return int(found[1], 16) if found else 0


def test_the_nonce_is_not_to_be_seen(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("cat /proc/$$/environ /proc/$$/cmdline /proc/$PPID/environ /proc/$PPID/cmdline; env; set").start()
    nonce = re.search(rb"ff_nonce='(\w+)'", wrapped.session.payload)
    assert nonce
    assert wrapped.read_to_the_end() == 0
    assert b"FLEETFLOW_ATTEMPT" in wrapped.output[Stream.STDOUT]
    assert nonce[1] not in wrapped.output[Stream.STDOUT]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cwd": "/no/where"}, "'/no/where'"),
        ({"cwd": "-"}, "'-'"),
        ({"stdin": bytes(10_000), "environment": {"TMPDIR": "/no/where"}}, "no room"),
    ],
)
def test_what_cannot_be_prepared_is_refused(wrap: Callable[..., Wrapped], options: dict[str, object], reason: str) -> None:
    wrapped = wrap("true", **options).prepare()
    assert reason in (wrapped.session.refusal or "")
    assert not wrapped.session.ready
    assert wrapped.process.wait(timeout=10) == 1
    assert not members(wrapped.pid)


def test_a_full_disk_is_refused(wrap: Callable[..., Wrapped], sh: str, tmp_path: Path) -> None:
    limited = [sh, "-c", f"ulimit -f 8; exec {sh} -c '{LOCAL_ARGV[2]}'"]
    wrapped = wrap("true", stdin=bytes(100_000), argv=limited, environment={"TMPDIR": str(tmp_path)}).prepare()
    assert "no room" in (wrapped.session.refusal or "")
    assert {path.name for path in tmp_path.iterdir()} <= set(_SHELLS)


def test_the_stdin_file_is_nobody_elses(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap("stat -L -c '%a %h %s' /proc/self/fd/0", stdin=bytes(10_000)).start()
    assert wrapped.read_to_the_end() == 0
    assert wrapped.output[Stream.STDOUT] == b"600 0 10000\n"


def test_a_script_with_every_sh(wrap: Callable[..., Wrapped]) -> None:
    wrapped = wrap('cat; printf "%s|" "$@"; exit 3', interpreter=("/bin/sh",), arguments=("a b", "", "c\n"), stdin=b"x" * 5000, umask="077")
    assert wrapped.start().read_to_the_end() == 3
    assert wrapped.output == {Stream.STDOUT: b"x" * 5000 + b"a b||c\n|", Stream.STDERR: b""}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be anybody without a password")
def test_sudo_with_every_sh(wrap: Callable[..., Wrapped]) -> None:
    need("sudo")
    wrapped = wrap("echo up; trap '' TERM; setsid sleep 1000 & sleep 1000", become="root", grace=0.2).start()
    wrapped.read_until(lambda: wrapped.output[Stream.STDOUT])
    wrapped.hang_up()
    wrapped.process.wait(timeout=10)
    assert not marked(wrapped.attempt)
    assert wrapped.output == {Stream.STDOUT: b"up\n", Stream.STDERR: b""}, "what our own shells say of its end is not the command's"
