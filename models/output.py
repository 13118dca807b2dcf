"""Output with limits: the head of each stream goes out in pieces, the tail waits in memory for the end."""

import threading
from collections.abc import Mapping
from types import MappingProxyType

from models.records import Piece
from models.values import STREAMS, Stream


class Capture:
    """Takes both streams of one attempt, from any thread; at most `limit` bytes of each are kept.

    `stored` is how many bytes of each stream were stored by somebody else before.
    """

    def __init__(self, limit: int, stored: Mapping[Stream, int] = MappingProxyType({})) -> None:
        self._lock = threading.Lock()
        self.is_masked = False  # what comes here is not as long as what it stands for
        self._streams = {stream: _Kept(stream, limit, stored.get(stream, 0)) for stream in STREAMS}

    def add(self, stream: Stream, data: bytes) -> bool:
        """Take a chunk; True when a head was empty and now waits to be taken."""
        with self._lock:
            return self._streams[stream].add(data)

    def skip(self, stream: Stream, size: int) -> None:
        """So many bytes of a stream are left out before the next chunk."""
        with self._lock:
            self._streams[stream].skip(size)

    def take(self) -> tuple[Piece, ...]:
        """What has come of the heads since the last call."""
        with self._lock:
            return tuple(piece for kept in self._streams.values() for piece in kept.take_head())

    def finish(self) -> tuple[tuple[Piece, ...], dict[Stream, int]]:
        """The rest of the heads, the tails, and the number of bytes left out of each stream."""
        with self._lock:
            pieces = tuple(piece for kept in self._streams.values() for piece in (*kept.take_head(), *kept.take_tail()))
            return pieces, {stream: kept.cut for stream, kept in self._streams.items()}

    def last_lines(self, stream: Stream, lines: int = 5) -> list[str]:
        """The end of a stream as text, for messages."""
        with self._lock:
            recent = bytes(self._streams[stream].recent)
        return recent.decode(errors="backslashreplace").splitlines()[-lines:]


class _Kept:
    """One stream: `head` waits to be taken, `tail` holds the newest chunks beyond the head."""

    def __init__(self, stream: Stream, limit: int, stored: int) -> None:
        self._stream = stream
        self._head_room = max(0, limit // 2 - stored)
        self._tail_room = limit - limit // 2
        self._head = bytearray()
        self._head_taken = stored
        self._tail = bytearray()
        self._total = stored
        self.cut = 0
        self.recent = bytearray()

    def add(self, data: bytes) -> bool:
        self._total += len(data)
        self.recent += data[-_RECENT:]
        del self.recent[:-_RECENT]
        head, tail = data[: self._head_room], data[self._head_room :]
        self._head_room -= len(head)
        was_empty = not self._head
        self._head += head
        if tail:
            self._add_tail(tail)
        return was_empty and bool(head)

    def _add_tail(self, data: bytes) -> None:
        self._tail += data
        surplus = max(0, len(self._tail) - self._tail_room)
        del self._tail[:surplus]  # a bytearray forgets its front without moving the rest
        self.cut += surplus

    def skip(self, size: int) -> None:
        self.cut += len(self._tail) + size
        self._tail.clear()
        self._head_room = 0
        self._total += size

    def take_head(self) -> list[Piece]:
        if not self._head:
            return []
        piece = Piece(self._stream, self._head_taken, bytes(self._head))
        self._head_taken += len(self._head)
        self._head.clear()
        return [piece]

    def take_tail(self) -> list[Piece]:
        if not self._tail:
            return []
        piece = Piece(self._stream, self._total - len(self._tail), bytes(self._tail))
        self._tail.clear()
        return [piece]


_RECENT = 4096  # bytes kept for messages
