"""An open connection of the pool: its sessions, its tunnels, and whether it is still alive."""

import time
from collections.abc import Callable

import paramiko

from executors.ssh.clock import Clock
from executors.ssh.route import Route
from executors.ssh.transport import Transport

SESSIONS = 10  # sshd's default MaxSessions: a further one would only be refused
PROBE_SECONDS = 15.0  # as long as ServerAliveInterval says nothing else
PROBES = 3  # unanswered ones, after which the connection counts as broken; ServerAliveCountMax
_FRESH_SECONDS = 1.0
_WORN_OUT = 10_000  # sessions; paramiko keeps the number of every channel it has seen


class BusyError(Exception):
    """The server refuses one more session on this connection."""


class BrokenError(Exception):
    """The connection ended, or fell silent, before the session was there."""


class Connection:
    """A connection that is logged in. The pool counts here who uses it."""

    def __init__(self, route: Route, transport: Transport, via: "Connection | None") -> None:
        self.route = route
        self.transport = transport
        self.via = via
        self.sessions = 0
        self.tunnels = 0
        self.limit = SESSIONS
        self.served = 0  # sessions that were opened
        self.was_used = False
        self.retired = False  # takes nobody new, and ends with its last user
        self.was_cut = False
        self.idle_since = time.monotonic()
        self.beats: set[Callable[[], None]] = set()
        self.clock = Clock()
        self.probe_seconds: float = route.probe_seconds or PROBE_SECONDS
        self.probes = route.probes or PROBES
        self._unanswered = 0
        self._probed = 0.0

    @property
    def is_open(self) -> bool:
        return not self.retired and self.transport.is_active()

    @property
    def is_idle(self) -> bool:
        return self.sessions == 0 and self.tunnels == 0

    @property
    def is_spare(self) -> bool:
        """Idle, and not just made for somebody who is about to take it."""
        return self.is_idle and (self.was_used or time.monotonic() - self.idle_since > _FRESH_SECONDS)

    @property
    def has_room(self) -> bool:
        return self.is_open and self.sessions + self.clock.sessions < self.limit

    @property
    def why_closed(self) -> str:
        """What is known of the end of the connection, to be put behind a sentence."""
        reason = self.transport.farewell or str(self.transport.saved_exception or "")
        return f": {reason}" if reason else ""

    def open_session(self, patience: float) -> paramiko.Channel:
        """A new session channel; raises `BusyError` or `BrokenError`. Blocks, at most `patience` seconds."""
        began = time.monotonic()
        try:
            channel = self.transport.open_session(timeout=patience)
        except paramiko.ChannelException as error:
            raise BusyError(str(error.args[-1])) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            # Two refusals at the same time share one exception in paramiko: the second is told by the clock alone.
            if self.transport.is_active() and time.monotonic() - began < patience:
                raise BusyError(str(error)) from error
            raise BrokenError(str(error) or "it was closed") from error
        self.served += 1
        self.retired = self.retired or self.served >= _WORN_OUT
        return channel

    def pulse(self) -> None:
        """Beat for all runs on this connection and ask for a sign of life when it is time; never waits for a busy socket."""
        if self.transport.is_active():
            self._probe(time.monotonic())
            for beat in (*self.beats, self.clock.pulse):
                if self.transport.can_send():
                    beat()

    def _probe(self, now: float) -> None:
        if self.transport.heard > self._probed:
            self._unanswered = 0
        if now - max(self.transport.heard, self._probed) < self.probe_seconds:
            return
        if self._unanswered == self.probes:
            self.transport.farewell = f"no answer to {self.probes} keep-alives in {now - self.transport.heard:.0f} s"
            self.transport.cut()
            return
        self._probed = now
        self._unanswered += 1
        if self.transport.can_send():  # a socket too full for a probe is no answer as well
            self.transport.probe()
