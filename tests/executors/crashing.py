"""Kills the processes of a durable run at their K-th system call of a kind, and asks afterwards what became of it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from executors.durable import ACK, Verb
from executors.lifeline import GO, LOCAL_ARGV
from models.values import Stream
from tests.executors.processes import describe
from tests.executors.spooled import Spooled
from tests.executors.wrapped import Wrapped
from tests.programs import need
from tests.witness import Witness, of_verdict

# What a wrapper does to the world; each family is one kind.
CALLS = (
    "mkdir", "openat", "write", "clone,clone3,fork,vfork", "execve", "unlink,unlinkat", "wait4", "dup2,dup3", "read", "close", "kill",
    "fcntl",
)  # fmt: skip
_PATIENCE = 1.5  # seconds for a session that may have been killed


def crash(box: Spooled, calls: str, nth: int) -> tuple[str, list[str]]:
    """The verdict of a run whose processes are each killed at their nth of `calls`, and what does not hold."""
    folder = box.home / f"{calls.partition(',')[0]}-{nth}"
    folder.mkdir()
    witness = Witness(folder / "witness")
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={nth}"]
    argv = [need("strace"), "-DD", "-f", "-qq", "-o", os.devnull, *inject, box.sh, *LOCAL_ARGV[1:]]
    run = box.wrapped(witness.script, argv=argv, grace=0.2, linger=None)
    with suppress(BrokenPipeError):
        run.send(run.session.payload)
        _follow(run, lambda: run.session.ready or run.session.refusal)
        run.send(GO)
        _follow(run, lambda: run.session.verdict)
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


def _follow(run: Wrapped, holds: Callable[[], object]) -> None:
    """Until it holds, or everybody who could say more is gone."""
    deadline = time.monotonic() + _PATIENCE
    with suppress(AssertionError):
        run.read_until(lambda: holds() or run.is_deaf or time.monotonic() > deadline, _PATIENCE + 1)


def make_home(folder: Path, shell: str) -> Spooled:
    """A host of its own for a series of crashes."""
    folder.mkdir(parents=True, exist_ok=True)
    return Spooled(shell, folder)
