"""Who ends a durable run, and who does not."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from executors.durable import Verb
from models.values import Stream
from tests.executors.processes import marked
from tests.executors.spooled import Spooled
from tests.executors.test_durable import STUBBORN
from tests.until import until

COUNT = "i=0; while [ $i -lt 32 ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 6"  # longer than beat_timeout and linger below


def test_runs_that_nobody_follows_end_by_their_policy(box: Spooled) -> None:
    """All at the same time, since each takes its time."""
    late = box.start(STUBBORN, linger=None, timeout=1)
    left = box.start(STUBBORN, linger=1)
    detached = box.start("echo up; sleep 2.5; echo down; exit 7", linger=None)
    at_once = box.start(STUBBORN, linger=0)
    runs = (late, left, detached, at_once)
    for run in runs:
        run.read_until(lambda run=run: run.output[Stream.STDOUT])
        run.vanish()
    until(lambda: not marked(at_once.attempt), 5, "the end of what lingers not at all")
    assert marked(left.attempt)
    until(lambda: not any(marked(run.attempt) for run in runs), 10, "the end of all")
    verdicts = [box.verdict(Verb.ATTACH, run.attempt) for run in runs]
    assert verdicts == ["ended timed_out", "ended abandoned", "exit 7", "ended abandoned"]
    box.nothing_left()
    assert all(box.verdict(Verb.ACK, run.attempt) == "acked" for run in runs)
    assert all(box.files(run.attempt) == {"tombstone"} for run in runs)


def test_beats_of_anybody_attached_keep_a_run_alive_and_silence_ends_it(box: Spooled) -> None:
    """With sessions that stay open: after a cut without a word, the host hears no end of them."""
    heard, left, silent = (box.start(script, linger=1, beat_timeout=1) for script in (COUNT, COUNT, STUBBORN))
    detached = box.start(STUBBORN, linger=None, beat_timeout=1)
    left.read_until(lambda: left.output[Stream.STDOUT])
    second = box.wrapped("", Verb.ATTACH, left.attempt, beat_timeout=1).start()
    left.vanish()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: run.read_until(lambda: run.session.verdict, 15, beat=0.2), (heard, second)))
    for run in (heard, second):
        assert run.session.verdict == "exit 6"
        assert run.output[Stream.STDOUT].split() == [b"%d" % number for number in range(32)]
    silent.read_until(lambda: silent.session.verdict, 5)
    assert silent.session.verdict == "ended abandoned"
    assert marked(detached.attempt)
    assert box.verdict(Verb.CANCEL, detached.attempt) == "ended canceled"
    box.nothing_left()


def test_one_who_comes_back_in_time_finds_it_running(box: Spooled) -> None:
    run = box.start("echo up; sleep 300", linger=3)
    run.read_until(lambda: run.output[Stream.STDOUT])
    run.vanish()
    assert box.verdict(Verb.STATE, run.attempt) == "running"
    second = box.wrapped("", Verb.ATTACH, run.attempt).start()
    second.read_until(lambda: second.output[Stream.STDOUT])
    second.vanish()
    assert box.verdict(Verb.CANCEL, run.attempt) == "ended canceled"
    box.nothing_left()


def test_old_tombstones_are_swept_when_asked(box: Spooled) -> None:
    box.start("true").read_until(box.spool.exists)
    ages = {"old": 8, "young": 6}
    for name, days in ages.items():
        (box.tombs / name).touch()
        os.utime(box.tombs / name, (0, time.time() - days * 86400))
    run = box.start("true", tidies=False)
    run.read_until(lambda: run.session.verdict)
    assert (box.tombs / "old").exists()
    run = box.start("true", tidies=True)
    run.read_until(lambda: run.session.verdict)
    until(lambda: not (box.tombs / "old").exists(), 5, "the sweep")
    assert (box.tombs / "young").exists()
