"""One attempt at a connection: name, TCP, banner, key exchange, host key, login."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import paramiko

from executors.ssh.errors import Step, TurnedAwayError, unreachable
from executors.ssh.host_keys import HostKeys
from executors.ssh.links import Link, Tunnel, Wire
from executors.ssh.login import Credentials, log_in
from executors.ssh.route import Route
from executors.ssh.slots import Slots
from executors.ssh.threads import Threads
from executors.ssh.transport import Transport

_BUSY = ("", "Exceeded MaxStartups", "Not allowed at this time")  # what sshd says when it turns a connection away


@dataclass(frozen=True)
class Dialler:
    """What every attempt at a connection shares."""

    threads: Threads
    slots: Slots
    host_keys: HostKeys
    credentials: Credentials
    patience: float  # seconds for any single step; the caller's deadline is the one that counts

    def patience_for(self, route: Route) -> float:
        """A host may be allowed more time than others."""
        return max(self.patience, route.connect_timeout or 0)


class Handshake:
    """One attempt to connect to a host; `doing` says how far it has come. A cancel ends it at once."""

    def __init__(self, dialler: Dialler, name: str, route: Route) -> None:
        self._dialler = dialler
        self._name = name
        self._route = route
        self._patience = dialler.patience_for(route)
        self._doing = "waiting to connect"
        self._transport: Transport | None = None

    @property
    def doing(self) -> str:
        """The step under way, in words that fit "while ..." ."""
        transport = self._transport
        if transport is None:
            return self._doing
        if not transport.has_banner:
            return "waiting for its banner"
        return "logging in" if transport.initial_kex_done else "exchanging keys"

    async def over_tcp(self) -> Transport:
        """Connect straight to the host; raises `UnreachableError`."""
        return await self._greet(Wire(await self._dial()))

    async def through(self, jump: Transport) -> Transport:
        """Connect through a jump host; raises `UnreachableError`."""
        self._doing = "opening the way through its jump host"
        route = self._route
        tunnel = partial(jump.open_channel, "direct-tcpip", (route.address, route.port), ("127.0.0.1", 0), timeout=self._patience)
        return await self._greet(Tunnel(await self._in_thread(tunnel)))

    async def _in_thread(self, work: Callable[[], "paramiko.Channel"]) -> "paramiko.Channel":
        try:
            return await self._dialler.threads.run(work)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise unreachable(self._name, error, Step(self.doing, self._route.where)) from error

    async def _dial(self) -> socket.socket:
        """A TCP connection to the first address that takes one."""
        self._doing = "resolving its name"
        try:
            addresses = await self._resolve()
            self._doing = "connecting"
            return await self._first_of(addresses)
        except (OSError, UnicodeError) as error:
            raise unreachable(self._name, error, Step(self.doing, self._route.where)) from error

    async def _resolve(self) -> "list[_Address]":
        look_up = partial(socket.getaddrinfo, self._route.address, self._route.port, self._route.family, socket.SOCK_STREAM)
        found: Any = look_up() if _is_numeric(self._route.address) else await self._dialler.threads.run(look_up)
        return list(found)

    async def _first_of(self, addresses: "list[_Address]") -> socket.socket:
        for address in addresses[:-1]:
            with suppress(OSError):
                return await _connect(address, self._route.bind_address, self._patience / len(addresses))
        return await _connect(addresses[-1], self._route.bind_address, self._patience)

    async def _greet(self, link: Link) -> Transport:
        """Speak SSH over the link until we are logged in."""
        transport = self._transport = Transport(link, self._patience)
        try:
            async with self._dialler.slots.take():
                await self._dialler.threads.run(partial(self._speak, transport))
        except BaseException:
            transport.cut()
            if not transport.is_alive():  # else its thread closes the link
                link.close()
            raise
        return transport

    def _speak(self, transport: Transport) -> None:
        try:
            transport.want_keys(self._dialler.host_keys.algorithms(self._route))
            transport.start_client(timeout=self._patience)
            if not transport.initial_kex_done:
                raise TimeoutError
            self._dialler.host_keys.check(self._name, self._route, transport.get_remote_server_key())
            log_in(transport, self._name, self._route, self._dialler.credentials)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._explain(transport, error) from error

    def _explain(self, transport: Transport, error: Exception) -> Exception:
        where = self._route.where
        cause = error.__context__ or error
        if transport.farewell:
            return unreachable(self._name, paramiko.SSHException(f"{where} disconnected: {transport.farewell}"), Step(self.doing))
        if transport.has_banner or isinstance(cause, TimeoutError):
            ended = isinstance(error, paramiko.AuthenticationException)  # paramiko's word for a connection that ends at the login
            return unreachable(self._name, EOFError() if ended else error, Step(self.doing, where))
        if transport.first_line in _BUSY:
            return TurnedAwayError(self._name, f"{where} closed the connection before its banner (too busy? see its MaxStartups)")
        return unreachable(
            self._name, paramiko.SSHException(f"{where} is no SSH server: it says {transport.first_line[:80]!r}"), Step(self.doing)
        )


_Address = tuple[int, int, int, str, tuple[str | int, ...]]


def _is_numeric(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


async def _connect(found: _Address, bind_address: str | None, patience: float) -> socket.socket:
    family, kind, protocol, _, address = found
    link = socket.socket(family, kind, protocol)
    try:
        link.setblocking(False)
        # Before anything else: a warm exec fell from 48 ms to 2.7 with it.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if bind_address is not None:
            link.bind((bind_address, 0))
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(link, address)
    except BaseException:
        link.close()
        raise
    return link
