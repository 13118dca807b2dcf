"""What paramiko sets when something comes on a channel, made to call us."""

import threading
from collections.abc import Callable


class Ring(threading.Event):
    """For a buffer of bytes; it is never silenced: another one may still have some."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def set(self) -> None:
        self._call()

    def clear(self) -> None:
        """Nothing; the reader clears its own bell."""


class EndBell(threading.Event):
    """For the end of a session, which comes once, and may come at any time."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def set(self) -> None:
        super().set()
        self._call()

    def redirect(self, call: Callable[[], None]) -> None:
        """Have it call somebody else from now on; at once if the end has come."""
        self._call = call
        if self.is_set():
            call()
