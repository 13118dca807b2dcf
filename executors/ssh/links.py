"""What a connection runs over: a socket, or a tunnel through a jump host. To paramiko each looks like a socket."""

import select
import socket
from contextlib import suppress
from typing import Any, Protocol

import paramiko

_READ_AHEAD = 16 * 1024


class Link(Protocol):
    """The part of a socket that paramiko uses, and what we need besides."""

    def recv(self, size: int) -> bytes: ...

    def send(self, data: bytes) -> int: ...

    def settimeout(self, seconds: float | None) -> None: ...

    def close(self) -> None: ...

    def cut(self) -> None:
        """End it both ways and wake everyone who waits on it, from any thread."""
        ...

    def can_send(self) -> bool:
        """Whether a small packet would go out at once."""
        ...


class Wire:
    """A socket that reads ahead: paramiko asks for each packet in two small reads, and each costs two system calls and the GIL.

    `cut` shuts it down and does not close it: the thread that reads it does that, since a number closed under it may by
    then belong to another connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ahead = memoryview(b"")

    def recv(self, size: int) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(self._sock.recv(max(size, _READ_AHEAD)))
        chunk, self._ahead = bytes(self._ahead[:size]), self._ahead[size:]
        return chunk

    def send(self, data: bytes) -> int:
        return self._sock.send(data)

    def settimeout(self, _seconds: float | None) -> None:
        """None: paramiko's timeout is for a look at whether it was closed; `cut` wakes it, and a timeout polls before each call."""
        self._sock.setblocking(True)

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def close(self) -> None:
        self._sock.close()

    def cut(self) -> None:
        with suppress(OSError):  # it has ended already
            self._sock.shutdown(socket.SHUT_RDWR)

    def can_send(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLOUT)
            return any(event & select.POLLOUT for _, event in poll.poll(0))
        except (OSError, ValueError):
            return False

    @property
    def _closed(self) -> bool:
        return self._sock.fileno() == -1


class Tunnel:
    """A channel through a jump host. Its end is told to the jump host, which may be gone by then, or may block."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def recv(self, size: int) -> bytes:
        return self._channel.recv(size)

    def send(self, data: bytes) -> int:
        return self._channel.send(data)

    def settimeout(self, seconds: float | None) -> None:
        self._channel.settimeout(seconds)

    def getpeername(self) -> Any:
        return self._channel.getpeername()

    def close(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def cut(self) -> None:
        self.close()

    def can_send(self) -> bool:
        return self._channel.send_ready()

    @property
    def _closed(self) -> bool:
        return self._channel.closed
