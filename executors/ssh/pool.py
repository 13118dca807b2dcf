"""The connections that stay open, shared by all runs of the process.

All of this runs in one event loop and needs no locks; whatever blocks is done in a thread.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import paramiko

from executors.ssh.connect import Dialler, Handshake
from executors.ssh.connection import PROBE_SECONDS, BrokenError, BusyError, Connection
from executors.ssh.errors import TurnedAwayError, with_host
from executors.ssh.idle import Idle
from executors.ssh.pulse import Pulse
from executors.ssh.route import Route
from models.errors import UnreachableError

_T = TypeVar("_T")
Step = Callable[[str], None]

_CONNECTIONS_A_ROUTE = 4  # more than one is opened only when the server refuses further sessions
_REFUSALS = 8  # of the only session, with growing pauses: about 2 s


@dataclass
class _Group:
    """All connections of one route."""

    connections: list[Connection] = field(default_factory=list)
    handshake: "asyncio.Task[None] | None" = None
    doing: Callable[[], str] = lambda: "waiting to connect"
    waiting: int = 0  # runs that wait for the handshake
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake everyone who waits for room."""
        self.changed.set()
        self.changed = asyncio.Event()


class Pool:
    """Opens sessions, on open connections where there are any."""

    def __init__(self, dialler: Dialler, pulse: Pulse, *, idle: float, size: int) -> None:
        self._dialler = dialler
        self._pulse = pulse
        self._idle = Idle(idle, self._cut)
        self._size = size
        self._open = 0
        self._groups: dict[Route, _Group] = {}
        self._closed = False

    async def open(self, name: str, route: Route, step: Step, begin: Callable[[Connection, paramiko.Channel], _T]) -> tuple[Connection, _T]:
        """Open a session on the host and `begin` with it in a thread; raises `UnreachableError`.

        A broken connection is replaced once. The connection is the caller's until `give_back`.
        """
        refusals, replaced = 0, False
        while True:
            connection = await self._claim(name, route, step)
            step("opening a session")
            try:
                return connection, await self._open_on(connection, begin)
            except BusyError as error:
                fitted = connection.sessions
                gave_way = await self._dialler.threads.run(connection.clock.give_way)
                refusals += connection.is_idle and not gave_way
                if refusals > (_REFUSALS if connection.served else _REFUSALS // 2):
                    raise UnreachableError(name, f"{route.where} refuses to open a session: {error}") from error
                await self._make_way(connection, fitted + gave_way, refusals)
            except BrokenError as error:
                if replaced:
                    raise UnreachableError(name, f"the connection to {route.where} broke while opening a session: {error}") from error
                replaced = True

    async def _open_on(self, connection: Connection, begin: Callable[[Connection, paramiko.Channel], _T]) -> _T:
        self._idle.discard(connection)
        connection.sessions += 1
        # One that has long been silent may be dead: little time is spent on finding out.
        recent = time.monotonic() - connection.transport.heard < PROBE_SECONDS
        patience = self._dialler.patience if recent else self._dialler.patience / 3
        try:
            return await self._dialler.threads.run(lambda: begin(connection, connection.open_session(patience)))
        except BusyError:
            self._leave(connection)
            raise
        except BaseException:
            connection.retired = True
            self._leave(connection)
            raise

    def give_back(self, connection: Connection, *, healthy: bool) -> None:
        """A session has ended; a connection that is not healthy serves nobody else."""
        if not healthy:
            connection.retired = True
        self._leave(connection)

    async def aclose(self) -> None:
        """Cut all connections."""
        self._closed = True
        self._idle.close()
        groups = list(self._groups.values())
        connections = [connection for group in groups for connection in group.connections]
        for group in groups:
            if group.handshake is not None:
                group.handshake.cancel()
            group.tell()
        for connection in connections:
            self._cut(connection)
        await self._dialler.threads.run(partial(_join, connections))

    # claiming and leaving

    async def _claim(self, name: str, route: Route, step: Step, *, tunnel: bool = False) -> Connection:
        """A connection with room, opened if need be."""
        while not self._closed:
            self._cut_the_dead(route)
            group = self._groups.setdefault(route, _Group())
            usable = [connection for connection in group.connections if (connection.is_open if tunnel else connection.has_room)]
            if usable:
                return max(usable, key=lambda connection: connection.idle_since)
            if group.handshake is not None or sum(connection.is_open for connection in group.connections) < _CONNECTIONS_A_ROUTE:
                await self._share_handshake(group, name, route, step)
            else:
                step("waiting for a free session")
                await group.changed.wait()
        raise UnreachableError(name, "the executor was closed")

    def _cut_the_dead(self, route: Route) -> None:
        if (group := self._groups.get(route)) is not None:
            for connection in list(group.connections):
                if connection.is_idle and not connection.is_open:
                    self._cut(connection)

    def _leave(self, connection: Connection, *, tunnel: bool = False) -> None:
        if tunnel:
            connection.tunnels -= 1
        else:
            connection.sessions -= 1
        connection.was_used = True
        group = self._groups.get(connection.route)
        if connection.is_idle and (self._closed or not connection.is_open):
            self._cut(connection)
        elif connection.is_idle:
            self._idle.add(connection)
            self._idle.trim(self._open - self._size)
        if group is not None:
            group.tell()

    async def _make_way(self, connection: Connection, fitted: int, refusals: int) -> None:
        """After a refusal: remember how many sessions fitted, or wait for the last one to be gone on the server as well."""
        if connection.sessions:
            connection.limit = max(1, fitted)
            return
        if refusals > _REFUSALS // 2 and connection.served:
            self._cut(connection)
            return
        await asyncio.sleep(random.uniform(0.5, 1) * 0.01 * 2**refusals)  # noqa: S311 - jitter, no secret

    # handshakes

    async def _share_handshake(self, group: _Group, name: str, route: Route, step: Step) -> None:
        """Wait for the handshake under way, or start one; it is given up with the last who waits for it."""
        if group.handshake is None:
            group.handshake = asyncio.create_task(self._connect(group, name, route))
        task = group.handshake
        group.waiting += 1
        try:
            await asyncio.shield(task)
        except UnreachableError as error:
            raise with_host(name, error) from error
        except asyncio.CancelledError:
            step(group.doing())
            if task.cancelled() and self._closed:
                raise UnreachableError(name, "the executor was closed") from None
            raise
        finally:
            group.waiting -= 1
            if group.waiting == 0 and not task.done():
                task.cancel()
            self._forget_if_empty(route, group)

    async def _connect(self, group: _Group, name: str, route: Route) -> None:
        """Open one more connection; a server that is too busy is asked again, with jitter."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._dialler.patience_for(route)
        pause = 0.05
        try:
            while True:
                try:
                    connection = await self._connect_once(group, name, route)
                    break
                except TurnedAwayError:
                    group.doing = lambda: "turned away before its banner, trying again"
                    pause = min(pause * 1.5, 1.0)
                    if loop.time() + pause > give_up:
                        raise
                    await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, no secret
            self._take_in(group, connection)
        finally:
            group.handshake = None
            group.tell()

    async def _connect_once(self, group: _Group, name: str, route: Route) -> Connection:
        if route.proxy_command is not None:
            raise UnreachableError(name, "ProxyCommand is not supported; use ProxyJump")
        handshake = Handshake(self._dialler, name, route)
        group.doing = lambda: handshake.doing
        if route.via is None:
            return Connection(route, await handshake.over_tcp(), None)
        return await self._connect_through(group, handshake, name, route, route.via)

    async def _connect_through(self, group: _Group, handshake: Handshake, name: str, route: Route, via: Route) -> Connection:
        steps = ["connecting to its jump host"]
        group.doing = lambda: f"{steps[-1]} ({via.where})"
        jump = await self._claim(name, via, steps.append, tunnel=True)
        self._idle.discard(jump)
        jump.tunnels += 1
        group.doing = lambda: handshake.doing
        try:
            return Connection(route, await handshake.through(jump.transport), jump)
        except BaseException:
            self._leave(jump, tunnel=True)
            raise

    # the life of connections

    def _take_in(self, group: _Group, connection: Connection) -> None:
        self._open += 1
        self._groups.setdefault(connection.route, group).connections.append(connection)
        self._pulse.add(connection, connection.probe_seconds)
        self._idle.add(connection)
        self._idle.trim(self._open - self._size)

    def _cut(self, connection: Connection) -> None:
        """End a connection, and its use of a jump host."""
        if connection.was_cut:
            return
        connection.retired = connection.was_cut = True
        self._open -= 1
        self._pulse.discard(connection)
        self._idle.discard(connection)
        group = self._groups[connection.route]
        group.connections.remove(connection)
        group.tell()
        self._forget_if_empty(connection.route, group)
        via, connection.via = connection.via, None
        if via is None:
            connection.transport.cut()
            return
        # Closing a tunnel sends a packet through the jump host, which may block.
        self._dialler.threads.start(connection.transport.cut)
        self._leave(via, tunnel=True)

    def _forget_if_empty(self, route: Route, group: _Group) -> None:
        is_unused = not group.connections and not group.waiting and (group.handshake is None or group.handshake.done())
        if is_unused and self._groups.get(route) is group:
            del self._groups[route]


def _join(connections: list[Connection]) -> None:
    """Wait for the threads of connections that were cut, so that nothing of them is left."""
    for connection in connections:
        with suppress(RuntimeError):
            connection.transport.join(1.0)
