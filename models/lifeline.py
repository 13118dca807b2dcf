"""Ends a process with the one that started it."""

import os
import signal
import stat
import threading


def end_with(lifeline: int) -> None:
    """Send ourselves TERM when the other end of the pipe `lifeline` is closed, as it is when its process dies."""
    threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()


def _watch(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    _mute()
    os.kill(os.getpid(), signal.SIGTERM)


def _mute() -> None:
    """Let go of a log whose reader has died too: the first line to it would end us in the middle of our farewell (rich exits then)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
