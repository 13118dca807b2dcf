"""A small HTTP proxy before Prefect's server or a hub, that spoils the requests that it is told to."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto


class Fault(Enum):
    """What becomes of a request."""

    ERROR = auto()  # 500, and the server never sees it
    TOO_MANY = auto()  # 429
    HTML = auto()  # a page, with status 200, as a gateway shows one
    SLOW = auto()  # a second late
    LOST = auto()  # the server acts on it, and its answer is lost
    DROPPED = auto()  # the server never sees it, and the client sees its connection closed
    TWICE = auto()  # the server sees it two times
    CUT = auto()  # the server acts on it, and half of its answer comes
    LATER = auto()  # the client sees its connection closed, and tries again; a second later the server sees the first one


_JSON, _PAGE = "application/json", "text/html; charset=utf-8"
_INSTEAD = {
    Fault.ERROR: ("500 Internal Server Error", _JSON, '{"exception_message": "Internal Server Error"}'),
    Fault.TOO_MANY: ("429 Too Many Requests", _JSON, "{}"),
    Fault.HTML: ("200 OK", _PAGE, "<html><body>The service is being moved.</body></html>"),
}
Choose = Callable[[str, str], "Fault | None"]  # by method and path


@dataclass
class Proxy:
    """Forwards to `target`, each request over a connection of its own, and websockets as they come."""

    target: int
    choose: Choose = lambda _method, _path: None
    spoiled: list[str] = field(default_factory=list)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=128))

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @contextmanager
    def spoiling(self, choose: Choose) -> Iterator[list[str]]:
        """Choose faults for a while; gives the list of the requests that were spoiled."""
        self.spoiled = []
        self.choose = choose
        try:
            yield self.spoiled
        finally:
            self.choose = lambda _method, _path: None

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client:
            head, rest = _read_head(client)
            if not head:
                return
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            if b"upgrade: websocket" in head.lower():
                self._tunnel(client, head + rest)
                return
            body = rest + _read(client, _length(head) - len(rest))
            fault = self.choose(method, path)
            if fault is not None:
                self.spoiled.append(f"{method} {path}")
            self._serve(client, head, body, fault)

    def _serve(self, client: socket.socket, head: bytes, body: bytes, fault: "Fault | None") -> None:
        match fault:
            case Fault.ERROR | Fault.TOO_MANY | Fault.HTML:
                client.sendall(_answer(*_INSTEAD[fault]))
            case Fault.DROPPED:
                client.shutdown(socket.SHUT_RDWR)
            case Fault.LATER:
                client.shutdown(socket.SHUT_RDWR)
                time.sleep(1)
                self._forward(head, body)
            case Fault.LOST:
                self._forward(head, body)
            case Fault.CUT:
                answer = self._forward(head, body)
                client.sendall(answer[: len(answer) // 2])
            case Fault.TWICE:
                self._forward(head, body)
                client.sendall(self._forward(head, body))
            case Fault.SLOW:
                answer = self._forward(head, body)
                time.sleep(1)
                client.sendall(answer)
            case None:
                client.sendall(self._forward(head, body))

    def _forward(self, head: bytes, body: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.sendall(_closing(head) + body)
            return b"".join(iter(lambda: server.recv(65536), b""))

    def _tunnel(self, client: socket.socket, start: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.sendall(start)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    got = b""
    while b"\r\n\r\n" not in got:
        chunk = client.recv(65536)
        if not chunk:
            return b"", b""
        got += chunk
    head, _, rest = got.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _read(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (chunk := client.recv(65536)):
        got += chunk
    return got


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """The head with `Connection: close`, so that the end of the answer is the end of the connection, on both sides."""
    lines = [line for line in head.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)


def _answer(status: str, kind: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@contextmanager
def run_proxy(target: int) -> Iterator[Proxy]:
    """A proxy that is running."""
    proxy = Proxy(target)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
