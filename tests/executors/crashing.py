"""Kills the processes of a durable run at their K-th system call of a kind, and asks afterwards what became of it."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from executors.durable import ACK, Verb
from executors.lifeline import GO, LOCAL_ARGV
from models.values import Stream
from tests.executors.processes import describe
from tests.executors.spooled import Spooled
from tests.executors.wrapped import Wrapped
from tests.programs import need
from tests.witness import Witness, of_verdict

# What a wrapper does to the world; each family is one kind. The longest series are first.
CALLS = (
    "read", "fcntl", "close", "dup2,dup3", "openat", "wait4", "unlink,unlinkat", "write", "mkdir", "clone,clone3,fork,vfork", "kill",
    "execve",
)  # fmt: skip
_BEYOND = 6  # points after the last call that was counted: one run makes a few more than another
_FIRST, _LAST, _STRIDE = 100, 800, 50
_PATIENCE = 1.5  # seconds for a session that may have been killed


def points(box: Spooled, calls: str) -> list[int]:
    """All K at which to kill: up to the most calls that a process makes when nobody is killed, and a few beyond.

    bash reads what we send byte by byte, fifteen thousand calls in which nothing has happened yet: of these each fiftieth.
    """
    trace = box.home / "trace"
    run = _run(box, Witness(box.home / "counted"), calls, str(trace), patience=30)
    with suppress(BrokenPipeError):
        run.send(ACK)
    box.nothing_left(15)
    box.close()
    made = Counter(line.split()[0] for line in trace.read_text().splitlines() if "resumed>" not in line)
    last = max(made.values(), default=0) + _BEYOND
    return [nth for nth in range(1, last + 1) if nth <= _FIRST or nth > last - _LAST or nth % _STRIDE == 0]


def crash(box: Spooled, calls: str, nth: int) -> tuple[str, list[str]]:
    """The verdict of a run whose processes are each killed at their nth of `calls`, and what does not hold."""
    folder = box.home / f"{calls.partition(',')[0]}-{nth}"
    folder.mkdir()
    witness = Witness(folder / "witness")
    run = _run(box, witness, calls, os.devnull, "-e", f"inject={calls}:signal=KILL:when={nth}")
    run.vanish()
    asked = box.ask(Verb.ATTACH, run.attempt, grace=0.2)
    account = of_verdict(run.attempt, asked.session.verdict or "", asked.output[Stream.STDOUT])
    found = witness.complaints([account])
    if not box.wrapped(witness.script, attempt=run.attempt).prepare().session.refusal:
        found.append("it could be started once more")
    with suppress(BrokenPipeError):
        asked.send(ACK)
    with suppress(AssertionError):
        box.nothing_left(15)
    found += [f"left behind: {describe(pid)}" for pid in box.left()]
    box.close()
    return asked.session.verdict or "", found


def _run(box: Spooled, witness: Witness, calls: str, trace: str, *options: str, patience: float = _PATIENCE) -> Wrapped:
    """A run under strace that has told its verdict, or that nobody is left to tell of."""
    argv = [need("strace"), "-DD", "-f", "-qq", "-o", trace, "-e", f"trace={calls}", *options, box.sh, *LOCAL_ARGV[1:]]
    run = box.wrapped(witness.script, argv=argv, grace=0.2, linger=None)
    with suppress(BrokenPipeError):
        run.send(run.session.payload)
        _follow(run, lambda: run.session.ready or run.session.refusal, patience)
        run.send(GO)
        _follow(run, lambda: run.session.verdict, patience)
    return run


def _follow(run: Wrapped, holds: Callable[[], object], patience: float) -> None:
    """Until it holds, or everybody who could say more is gone."""
    deadline = time.monotonic() + patience
    with suppress(AssertionError):
        run.read_until(lambda: holds() or run.is_deaf or time.monotonic() > deadline, patience + 1)
