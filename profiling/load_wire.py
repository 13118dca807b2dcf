"""A small HTTP/1.1 client for thousands of connections: POST and its answer, nothing else. It measures others, so it must cost little."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen by connect, which looks for a free one in less time

Answered = Callable[[int, bytes], None]  # status and body; status 0: no answer came, the connection broke


@dataclass(frozen=True, slots=True)
class Address:
    """Where the hub is, and how it is reached."""

    host: str
    port: int
    fingerprint: str | None = None  # SHA-256 of its certificate; None: plain HTTP
    source: str | None = None  # the address to come from: one has 28,000 ports

    @property
    def context(self) -> ssl.SSLContext | None:
        """As the agent does it: the certificate is known by its fingerprint, or (empty) not at all."""
        if self.fingerprint is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def socket(self) -> socket.socket:
        wire = socket.socket()
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.source:
            wire.setsockopt(socket.SOL_IP, _BIND_ADDRESS_NO_PORT, 1)
            wire.bind((self.source, 0))
        return wire


class Wire(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, patience: float) -> None:
        self._address = address
        self._context = context
        self._patience = patience  # seconds until the connection is there
        self._transport: asyncio.Transport | None = None
        self._answered: Answered | None = None
        self._buffer = b""
        self._connecting: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def post(self, path: bytes, token: bytes, body: bytes, answered: Answered) -> None:
        """Send a request, over a new connection where there is none; `answered` is called once."""
        self._answered = answered
        authorization = b"Authorization: Bearer %s\r\n" % token if token else b""
        request = b"POST %s HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (
            path, authorization, len(body), body,
        )  # fmt: skip
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(request)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(request))

    def close(self) -> None:
        """Break off for good; whoever waits for an answer hears no more."""
        self._is_closed = True
        self._answered = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _connect(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        wire = self._address.socket()
        try:
            async with asyncio.timeout(self._patience):
                await loop.sock_connect(wire, (self._address.host, self._address.port))
                name = "hub" if self._context else None
                await loop.create_connection(lambda: self, sock=wire, ssl=self._context, server_hostname=name)
        except OSError:  # TimeoutError is one
            wire.close()
            self._end(0, b"")
            return
        if self._transport is not None:
            self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._is_closed:
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""
        if self._address.fingerprint:
            certificate: Any = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert hashlib.sha256(certificate).hexdigest() == self._address.fingerprint.replace(":", "").lower(), "another certificate"

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = self._buffer[:head].lower()
        _, _, length = fields.partition(b"content-length:")
        size = int(length.split(b"\r\n", 1)[0])
        if len(self._buffer) < head + 4 + size:
            return
        status, body = int(fields[9:12]), self._buffer[head + 4 : head + 4 + size]
        self._buffer = b""
        if b"connection: close" in fields and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._end(status, body)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._end(0, b"")

    def _end(self, status: int, body: bytes) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, body)
