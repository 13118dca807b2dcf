"""What the durable wrapper promises, verb by verb, on each shell."""

import os
import random
import signal
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from executors.durable import ACK, CANCEL, Verb
from executors.lifeline import GO
from models.values import Attempt, Stream
from tests.executors.processes import children, marked, members
from tests.executors.spooled import Spooled, kill, refusal, watcher_of
from tests.executors.wrapped import Wrapped
from tests.until import until

STUBBORN = "trap '' TERM; echo up; setsid sleep 300 & sleep 300"


def _end(run: Wrapped, seconds: float = 10, **options: float) -> str:
    run.read_until(lambda: run.session.verdict, seconds, **options)
    return run.session.verdict or ""


def _up(run: Wrapped) -> Wrapped:
    run.read_until(lambda: run.output[Stream.STDOUT])
    return run


def test_output_and_exit_code_are_told_and_after_the_ack_only_a_tombstone_is_left(box: Spooled) -> None:
    run = box.start("cat; echo out; echo err >&2; exit 3", stdin=b"in\n")
    assert _end(run) == "exit 3"
    assert run.output == {Stream.STDOUT: b"in\nout\n", Stream.STDERR: b"err\n"}
    assert refusal(box.wrapped("echo again", attempt=run.attempt).prepare().session) == "this attempt was started before"
    run.send(ACK)
    run.process.wait(10)
    assert box.files(run.attempt) == {"tombstone"}
    assert refusal(box.wrapped("echo again", attempt=run.attempt).prepare().session) == "this attempt was started before"
    assert {box.verdict(verb, run.attempt) for verb in (Verb.STATE, Verb.ATTACH, Verb.FENCE, Verb.CANCEL, Verb.ACK)} == {"acked"}
    box.nothing_left()
    assert box.files(run.attempt) == {"tombstone"}


def test_a_session_goes_on_where_another_one_broke_off(box: Spooled) -> None:
    run = box.start("echo one; echo eins >&2; sleep 0.5; echo two; exit 4", linger=30)
    run.read_until(lambda: run.output[Stream.STDOUT] and run.output[Stream.STDERR])
    run.vanish()
    second = box.ask(Verb.ATTACH, run.attempt, offsets={Stream.STDOUT: 2, Stream.STDERR: 5})
    assert second.session.verdict == "exit 4"
    assert second.output == {Stream.STDOUT: b"e\ntwo\n", Stream.STDERR: b""}
    assert second.session.offsets == {Stream.STDOUT: 8, Stream.STDERR: 5}
    third = box.ask(Verb.ATTACH, run.attempt)  # while the second one is attached; its end may be told any number of times
    assert third.output == {Stream.STDOUT: b"one\ntwo\n", Stream.STDERR: b"eins\n"}
    third.send(ACK)
    second.hang_up()
    box.nothing_left()
    assert box.files(run.attempt) == {"tombstone"}


def test_two_sessions_follow_one_run(box: Spooled) -> None:
    run = _up(box.start("echo up; sleep 0.7; echo down"))
    second = box.wrapped("", Verb.ATTACH, run.attempt).start()
    assert (_end(run), _end(second)) == ("exit 0", "exit 0")
    assert run.output == second.output == {Stream.STDOUT: b"up\ndown\n", Stream.STDERR: b""}
    run.hang_up()
    second.hang_up()
    box.nothing_left()


def test_a_command_that_kills_itself_ended_by_a_signal(box: Spooled) -> None:
    assert _end(box.start("echo up; kill -9 $$")) == "exit 137"


def test_a_cancel_ends_the_tree(box: Spooled) -> None:
    run = _up(box.start(STUBBORN))
    run.send(CANCEL)
    assert _end(run) == "ended canceled"
    assert not marked(run.attempt)
    assert box.verdict(Verb.STATE, run.attempt) == "ended canceled"
    run.send(ACK)
    box.nothing_left()


def test_a_cancel_by_somebody_else_ends_the_tree(box: Spooled) -> None:
    run = _up(box.start(STUBBORN, linger=None))
    run.vanish()
    assert box.verdict(Verb.CANCEL, run.attempt) == "ended canceled"
    box.nothing_left()


def test_what_nobody_knows_is_fenced_off(box: Spooled) -> None:
    fenced = box.ask(Verb.FENCE, Attempt(id=uuid.uuid4()))
    assert fenced.session.verdict == "void"
    assert refusal(box.wrapped("echo ran", attempt=fenced.attempt).prepare().session) == "this attempt was started before"
    assert box.verdict(Verb.ATTACH, fenced.attempt) == "void"


def test_what_was_killed_between_claim_and_start_never_started(box: Spooled, tmp_path: Path) -> None:
    run = box.wrapped(f"touch {tmp_path}/ran").prepare()
    kill(run.pid)
    run.process.wait(10)
    assert box.verdict(Verb.STATE, run.attempt) == "claimed"
    assert box.verdict(Verb.FENCE, run.attempt) == "void"
    assert refusal(box.wrapped(f"touch {tmp_path}/ran", attempt=run.attempt).prepare().session)
    assert not (tmp_path / "ran").exists()


def test_a_starter_that_was_fenced_off_starts_nothing(box: Spooled, tmp_path: Path) -> None:
    run = box.wrapped(f"touch {tmp_path}/ran").prepare()
    assert box.verdict(Verb.FENCE, run.attempt) == "void"
    run.send(GO)
    assert _end(run) == "void"
    run.process.wait(10)
    assert not (tmp_path / "ran").exists()
    assert box.verdict(Verb.ATTACH, run.attempt) == "void"


def test_one_that_leaves_before_the_start_leaves_nothing(box: Spooled) -> None:
    run = box.wrapped("echo ran", stdin=bytes(5000)).prepare()
    run.vanish()
    box.nothing_left()
    assert not box.files(run.attempt)


def test_the_end_is_known_without_the_watcher(box: Spooled) -> None:
    run = _up(box.start("echo up; sleep 0.6; echo down; exit 5"))
    kill(watcher_of(run))
    second = box.ask(Verb.ATTACH, run.attempt)
    assert (second.session.verdict, second.output[Stream.STDOUT]) == ("exit 5", b"up\ndown\n")
    run.vanish()
    second.send(ACK)
    box.nothing_left()


def test_without_main_nobody_knows_the_end_and_nothing_goes_on(box: Spooled) -> None:
    run = _up(box.start(STUBBORN))
    kill(run.pid)
    assert _end(run) == "lost killed"
    assert not marked(run.attempt)
    assert box.verdict(Verb.ATTACH, run.attempt) == "lost killed"
    run.vanish()
    box.nothing_left()


def test_without_main_and_watcher_the_next_one_ends_what_is_left(box: Spooled) -> None:
    run = _up(box.start(STUBBORN))
    watcher = watcher_of(run)
    readers = children(watcher)
    for pid in (watcher, run.pid):
        kill(pid)
    for pid in readers:
        with suppress(ProcessLookupError):  # it ends with its watcher, perhaps sooner
            kill(pid)
    assert box.verdict(Verb.ATTACH, run.attempt) == "lost killed"
    run.vanish()
    box.nothing_left()


def test_what_ran_before_a_boot_is_lost(box: Spooled) -> None:
    run = _up(box.start("echo up; sleep 300"))
    os.killpg(run.pid, signal.SIGKILL)  # all at once, as a boot does
    run.close()
    claim = box.spool / f"{run.attempt.id}.claim"
    pid, tick, boot = claim.read_text().split()
    claim.write_text(f"{pid} {tick} {boot[::-1]}\n")
    assert box.verdict(Verb.ATTACH, run.attempt) == "lost rebooted"
    assert box.verdict(Verb.ACK, run.attempt) == "acked"


def test_of_twenty_starters_one_starts(box: Spooled, tmp_path: Path) -> None:
    first = box.wrapped(f"echo ran >>{tmp_path}/ran")
    starters = [first, *(box.wrapped(f"echo ran >>{tmp_path}/ran", attempt=first.attempt) for _ in range(19))]
    threads = [threading.Thread(target=starter.prepare) for starter in starters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (started,) = [starter for starter in starters if starter.session.ready]
    assert {refusal(starter.session) for starter in starters if starter is not started} == {"this attempt was started before"}
    started.send(GO)
    assert _end(started) == "exit 0"
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_start_against_fence_ends_one_way_or_the_other(box: Spooled, tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311 - jitter
    for number in range(10):  # on each of three shells
        start = box.wrapped(f"echo ran >>{tmp_path}/{number}").prepare()
        fence = box.wrapped("", Verb.FENCE, start.attempt).prepare()
        for session in chance.sample([start, fence], 2):
            session.send(GO)
            time.sleep(chance.random() / 500)  # so that now the one, now the other is first
        started, fenced = _end(start), _end(fence)
        ran = (tmp_path / str(number)).exists()
        assert (started, ran) in {("exit 0", True), ("void", False)}
        assert (fenced == "void") is not ran
        assert ran == (box.verdict(Verb.ATTACH, start.attempt) == "exit 0")
        start.close()
        fence.close()


@pytest.mark.parametrize("verb", [Verb.STATE, Verb.FENCE, Verb.CANCEL])
def test_a_question_leaves_nobody_behind(box: Spooled, verb: Verb) -> None:
    run = box.start("exit 0")
    _end(run)
    assert box.verdict(verb, run.attempt) == "exit 0"
    run.send(ACK)
    box.nothing_left()


@pytest.mark.parametrize("goodbye", [ACK, b"", None])
def test_nobody_of_the_wrapper_stays_after_the_goodbye(box: Spooled, goodbye: bytes | None) -> None:
    """By an ack, by the end of our side, or with the connection."""
    run = box.start("echo done")
    _end(run)
    until(lambda: len(members(run.pid)) >= 3, 5, "main, watcher and reader")
    if goodbye is None:
        run.vanish()
    elif goodbye:
        run.send(goodbye)
    else:
        run.hang_up()
    box.nothing_left()
    assert box.files(run.attempt) == ({"tombstone"} if goodbye else {"claim", "go", "out", "err", "rc", "why"})


@pytest.mark.parametrize(("file", "torn"), [("rc", "     137\n"), ("rc", "it 137\n"), ("why", "anceled\n")])
def test_a_line_read_while_it_is_written_says_nothing(box: Spooled, file: str, torn: str) -> None:
    run = _up(box.start("echo up; sleep 300"))
    path = box.spool / f"{run.attempt.id}.{file}"
    room = path.read_text()
    path.write_text(torn)
    assert box.verdict(Verb.STATE, run.attempt) == "running"
    path.write_text(room)
    assert box.verdict(Verb.CANCEL, run.attempt) == "ended canceled"
    run.vanish()
    box.nothing_left()
