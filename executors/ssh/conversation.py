"""One run on a session channel: hand over the payload, give the start, follow the output to the end mark. All of it blocks."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

import paramiko

from executors.lifeline import ALONE, BEAT, GO, REMOTE_LINE, Session
from executors.protocol import Sink
from executors.ssh.bells import EndBell, Ring
from executors.ssh.clock import Warden
from executors.ssh.connection import Connection
from models.values import Stream

_CHUNK = 64 * 1024
_PACKET = 32 * 1024
_LAST_WORDS = 1.0  # seconds for output still under way when the session's main process has ended
_FULL_WINDOW = 0.01, 0.2  # seconds between looks at a window that is full: at first, and at most


class Ended(Enum):
    """How a stretch of the conversation came to its end."""

    READY = auto()  # the wrapper waits for the start
    REFUSED = auto()  # the wrapper says why it cannot start
    MARK = auto()  # the end mark: the command has ended by itself
    SESSION = auto()  # the session's main process is gone, without an end mark
    CONNECTION = auto()  # the connection is gone


class Conversation:
    """Talks with the wrapper on one channel. `hang_up` and `abandon` are for other threads."""

    def __init__(self, connection: Connection, channel: paramiko.Channel, session: Session, sink: Sink) -> None:
        self._transport = connection.transport
        self._beats = connection.beats
        self._clock = connection.clock
        self._channel = channel
        self._session = session
        self._sink = sink
        self._outgoing = memoryview(b"")
        self._bell = threading.Event()
        self._end = EndBell(self._bell.set)
        self._abandoned = False
        self._has_hung_up = False
        self._has_started = False
        self._is_alone = False  # and the host is still to be told
        self._stays = False  # the channel is the clock's
        self._deadline: float | None = None  # for the last words
        channel.settimeout(0.0)
        channel.in_buffer.set_event(Ring(self._bell.set))
        channel.in_stderr_buffer.set_event(Ring(self._bell.set))
        channel.status_event = self._end

    def prepare(self) -> Ended:
        """Bring the wrapper to the point where only the start is missing."""
        try:
            self._transport.execute(self._channel, REMOTE_LINE)
        except (OSError, EOFError, paramiko.SSHException):
            return self._gone()
        self._share_clock()
        self._outgoing = memoryview(self._session.payload)
        ended = self._follow(lambda: self._session.ready, Ended.READY)
        if ended is not Ended.READY:
            self.close()
        return ended

    def start(self) -> Ended:
        """Give the start, and follow the command to its end; then the channel is given back, unless the session has a further use."""
        self._outgoing = memoryview(GO)
        self._has_started = True
        if self._is_alone:
            self._bell.set()
        self._beats.add(self.beat)
        ended = Ended.CONNECTION
        try:
            ended = self._follow(lambda: self._session.verdict is not None, Ended.MARK)
        finally:
            if not (ended is Ended.MARK and (self._session.outlives_shell or self._stay())):
                self.close()
        return ended

    def _share_clock(self) -> None:
        if self._session.can_share_clock:
            server = self._clock.lean(self)
            if server is not None or self._clock.wants_warden:
                self._session.share_clock(server=server)

    def _stay(self) -> bool:
        """Leave the session to the connection's clock, if the host has offered that and it is wanted."""
        if self._session.server is None or self._has_hung_up:
            return False
        self._beats.discard(self.beat)
        self._stays = self._clock.appoint(Warden(self._transport, self._channel, self._end, self._session.server))
        return self._stays

    def count_alone(self) -> None:
        """Have the host count the silence for this run itself."""
        self._is_alone = True
        self._bell.set()

    def beat(self) -> None:
        """One byte that shows the host that we are there, unless others are waiting to be sent."""
        if not self._outgoing:
            with suppress(OSError, paramiko.SSHException):
                self._channel.send(BEAT)

    def say(self, line: bytes) -> None:
        """Send a line to the wrapper, which reads it sooner or later."""
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.send(line)

    def hang_up(self) -> None:
        """End our side: the host ends the command, and then the session."""
        self._has_hung_up = True
        if self._stays:
            return
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def abandon(self) -> None:
        """Let `prepare` or `start` return at once, and close the channel."""
        self._abandoned = True
        self._bell.set()
        self.close()

    def close(self, last_word: bytes = b"") -> None:
        """Give the channel back, after a last word to the wrapper; it has no further use."""
        if self._stays:
            return
        self._clock.leave(self)
        self._beats.discard(self.beat)
        if last_word:
            self.say(last_word)
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._transport.forget(self._channel)

    def _follow(self, is_done: Callable[[], bool], done: Ended) -> Ended:
        pause = _FULL_WINDOW[0]
        while True:
            if self._is_alone and self._has_started and not self._outgoing:
                self._is_alone, self._outgoing = False, memoryview(ALONE)
            pause = _FULL_WINDOW[0] if self._send() else min(pause * 2, _FULL_WINDOW[1])
            self._bell.wait(self._patience(pause))
            self._bell.clear()
            over = self._is_over()  # asked first: what comes before the end is then already here
            more = self._drain()
            if is_done():
                return done
            if self._session.refusal is not None:
                return Ended.REFUSED
            if over and not more:
                return self._gone()

    def _patience(self, pause: float) -> float | None:
        if self._outgoing:
            return pause
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _send(self) -> bool:
        """Send what the window takes; whether any of it went."""
        sent = 0
        with suppress(OSError, EOFError, paramiko.SSHException):  # a full window, or the end that the reader sees as well
            while self._outgoing and sent < _CHUNK:
                size = self._channel.send(bytes(self._outgoing[:_PACKET]))
                sent += size
                self._outgoing = self._outgoing[size:] if size else self._outgoing[:0]
        if self._outgoing and sent:
            self._bell.set()  # come back soon, after a look at what has come
        return sent > 0

    def _drain(self) -> bool:
        """Take what has come, at most one chunk of each stream; whether there may be more."""
        channel = self._channel
        if channel.recv_ready():
            self._take(Stream.STDOUT, channel.recv(_CHUNK))
        if channel.recv_stderr_ready():
            self._take(Stream.STDERR, channel.recv_stderr(_CHUNK))
        more = channel.recv_ready() or channel.recv_stderr_ready()
        if more:
            self._bell.set()
        return more

    def _take(self, stream: Stream, data: bytes) -> None:
        for piece in self._session.pieces(stream, data):
            if isinstance(piece, bytes):
                self._sink.output(stream, piece)
            else:
                self._sink.left_out(stream, piece)
        if reply := self._session.reply():
            self._outgoing = memoryview(bytes(self._outgoing) + reply)
            self._bell.set()

    def _is_over(self) -> bool:
        """Whether nothing more will come. A child that keeps stdout open does not count once the main process is gone."""
        if self._channel.closed or self._abandoned:
            return True
        if self._session.outlives_shell:
            return bool(self._channel.eof_received)
        if self._channel.eof_received or self._end.is_set():
            if self._deadline is None:
                self._deadline = time.monotonic() + _LAST_WORDS
            has_all = bool(self._channel.eof_received) and self._end.is_set()
            return has_all or time.monotonic() >= self._deadline
        return False

    def _gone(self) -> Ended:
        return Ended.SESSION if self._transport.has_ended(self._channel) else Ended.CONNECTION
