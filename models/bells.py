"""Doorbells: processes of one home wake each other when there is something for them in the database.

Each has a datagram socket in FLEETFLOW_HOME/bells, named by what it is. A ring carries nothing, and may get lost: who waits looks
from time to time anyway.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from models.sockets import short_path


class Kind(StrEnum):
    """Who listens."""

    HUB = "hub"
    WORKER = "worker"
    DISPATCHER = "dispatcher"
    POLL = "poll"


@contextmanager
def listen(home: Path, kind: Kind) -> Iterator[socket.socket]:
    """A bell of our own: a socket that can be read when somebody rang."""
    folder = home / "bells"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.setblocking(False)
        with short_path(path) as short:
            bell.bind(short)
        path.chmod(0o600)
        try:
            yield bell
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def answered(home: Path, kind: Kind, on_ring: Callable[[], None]) -> Iterator[None]:
    """Have the running loop call `on_ring` whenever somebody rang, until the end of the block."""

    def hear() -> None:
        if heard(bell):
            on_ring()

    loop = asyncio.get_running_loop()
    with listen(home, kind) as bell:
        loop.add_reader(bell.fileno(), hear)
        try:
            yield
        finally:
            loop.remove_reader(bell.fileno())


def heard(bell: socket.socket) -> bool:
    """Whether somebody rang since the last look."""
    rang = False
    with suppress(BlockingIOError):
        while True:
            bell.recv(16)
            rang = True
    return rang


def ring(home: Path, kind: Kind) -> None:
    """Wake all of a kind. Never waits and never fails; what a dead process has left is removed."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in (home / "bells").glob(f"{kind}-*"):
            _ring(sender, path)


def _ring(sender: socket.socket, path: Path) -> None:
    try:
        with short_path(path) as short:
            sender.sendto(b"!", short)
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError:  # its queue is full: it has been woken already
        return
