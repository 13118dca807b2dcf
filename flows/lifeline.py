"""Ends a process with the one that started it."""

import os
import signal
import threading


def end_with(lifeline: int) -> None:
    """Send ourselves TERM when the other end of the pipe `lifeline` is closed, as it is when its process dies."""
    threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()


def _watch(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
