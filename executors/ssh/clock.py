"""The clock of a connection: who counts on the host, for all runs on it, the seconds in which nothing comes from us.

To notice silence takes two processes more where /bin/sh is dash, and they are a fifth of what a run costs its host. So a run that
ends by itself leaves its session behind, with the clock that it had anyway, as the *warden* (executors/lifeline.sh), and those after
it lean on that: a warden that hears nothing for `beat_timeout` ends the connection on the host, and with it the lifeline of each run.

A run is told when the warden that it leans on is gone, and counts for itself from then on. The warden is let go when nobody has leaned
on it for a while: an idle connection has no process of ours on the host. It takes one session, so it goes as well where the server
refuses one.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import paramiko

from executors.lifeline import BEAT
from executors.ssh.bells import EndBell, Ring
from executors.ssh.transport import Transport


class Leaning(Protocol):
    """A run that may lean on the warden."""

    def count_alone(self) -> None:
        """The warden is gone. Called in the thread that reads the connection: it must not block."""
        ...


class Warden:
    """A session that has stayed. `server` is the process on the host that it would end."""

    def __init__(self, transport: Transport, channel: paramiko.Channel, end: EndBell, server: int) -> None:
        self.server = server
        self.is_leaving = False  # nobody may lean on it any more
        self._transport = transport
        self._channel = channel
        self._end = end

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` when the session has ended on the host."""
        for buffer in (self._channel.in_buffer, self._channel.in_stderr_buffer):
            buffer.set_event(Ring(self._hear))
        self._end.redirect(lost)

    def _hear(self) -> None:
        """Something the run left behind prints there; with the session's end it is told, as ever, that nobody listens."""
        if not (self._channel.closed or self._channel.eof_received):
            self.is_leaving = True

    def beat(self) -> None:
        with suppress(OSError, paramiko.SSHException):
            self._channel.send(BEAT)

    def dismiss(self) -> None:
        """End the session."""
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._transport.forget(self._channel)


class Clock:
    """One connection's warden, and the runs that lean on it. For any thread; nothing is sent under the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._warden: Warden | None = None
        self._leaning: set[Leaning] = set()
        self._was_needed = False  # since the last pulse
        self._may_have_warden = True

    @property
    def sessions(self) -> int:
        """How many sessions of the connection it takes."""
        return int(self._warden is not None)

    @property
    def wants_warden(self) -> bool:
        """Whether a run may offer to stay."""
        return self._warden is None and self._may_have_warden

    def lean(self, run: Leaning) -> int | None:
        """The warden's `server`, for a run that leans on it until `leave`; None when there is nobody to lean on."""
        with self._lock:
            if self._warden is None or self._warden.is_leaving:
                return None
            self._leaning.add(run)
            self._was_needed = True
            return self._warden.server

    def leave(self, run: Leaning) -> None:
        """The run has ended, or never was."""
        with self._lock:
            self._leaning.discard(run)
        self._tidy()

    def appoint(self, warden: Warden) -> bool:
        """Have a session stay as the warden, unless there is one, or may be none."""
        with self._lock:
            if not self.wants_warden:
                return False
            self._warden = warden
            self._was_needed = True
        warden.watch(lambda: self._lose(warden))
        return True

    def give_way(self) -> bool:
        """The server has refused a session: the warden takes none any more. Whether it had one."""
        with self._lock:
            warden = self._warden
            self._may_have_warden = False
            if warden is not None:
                warden.is_leaving = True
        self._tidy()
        return warden is not None

    def pulse(self) -> None:
        """Beat for the warden, or let it go if nobody has leaned on it since the last time."""
        with self._lock:
            warden, is_needed = self._warden, self._was_needed
            self._was_needed = bool(self._leaning)
            if warden is not None and not is_needed:
                warden.is_leaving = True
        if warden is not None and is_needed:
            warden.beat()
        self._tidy()

    def _lose(self, warden: Warden) -> None:
        with self._lock:
            if warden is not self._warden:
                return
            warden.is_leaving = True
            alone, self._leaning = self._leaning, set()
        for run in alone:
            run.count_alone()

    def _tidy(self) -> None:
        """End the session of a warden that nobody leans on any more, or will."""
        with self._lock:
            warden = self._warden
            if warden is None or not warden.is_leaving or self._leaning:
                return
            self._warden = None
        warden.dismiss()
