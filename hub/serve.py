"""The hub as a process of the local stack: `python -m hub.serve LISTENER LIFELINE`, two descriptor numbers.

It listens on a socket that the stack has opened, and ends when the stack does, however that ends.
"""

import ctypes
import gc
import logging
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from models.lasting import lasting
from models.lifeline import end_with

if TYPE_CHECKING:
    import ssl

    from models.settings import Settings

log = logging.getLogger("hub.serve")  # this file runs as __main__

_MIGRATION = 100.0  # seconds that the worker has to bring the database up to date
_GOODBYE = 2  # seconds that requests under way have to end
_GARBAGE = 20_000, 50, 50  # objects, and rounds of the generations below
_MMAP_THRESHOLD, _LARGE = -3, 128 * 1024  # malloc.h; its usual size, which it would raise as it sees fit
_TURN = 0.0005  # seconds that a thread may keep the others waiting: an agent's answer waits several times for those that write
_CROWDED = 0.75  # of the descriptors: agents keep their second connections no more, so that there are some for the first ones


def main(listener: int, lifeline: int, **tuning: int) -> None:
    """Serve until a signal comes or the lifeline ends; an error of ours becomes one line and its exit code. `tuning` is `create_app`'s."""
    setproctitle("fleetflow hub")
    end_with(lifeline)
    from models.errors import FleetflowError  # after the lifeline: what follows imports for a second

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("hub").setLevel(logging.INFO)
    try:
        serve(socket.socket(fileno=listener), **tuning)
    except FleetflowError as error:
        print(f"fleetflow hub: {error}", file=sys.stderr)  # noqa: T201 - the stack shows this line
        raise SystemExit(error.exit_code) from None


def serve(listener: socket.socket, **tuning: int) -> None:
    """Serve on this socket until a signal comes.

    Raises `SettingsError` for a certificate that cannot be used, and `UnavailableError` where the database cannot.
    """
    with lasting():
        import uvicorn

        from hub.app import create_app
        from hub.front import Front
        from models.settings import Settings

    settings = Settings.load()
    context = _open_context(settings, listener)
    if context is not None:
        _map_buffers()
    _await_database(settings.database)
    _mention_cut(settings.home, "http" if context is None else "https")
    app = create_app(settings, **tuning)
    most = _CROWDED * _allow_descriptors()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _collect_seldom()
                sys.setswitchinterval(_TURN)
                app.state.hub.is_crowded = lambda: len(self.server_state.connections) > most

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.hub.close_lines()  # uvicorn waits for requests under way, and polls wait long
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, loop="uvloop", http=Front, ws="none", lifespan="on", log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=_GOODBYE, timeout_keep_alive=75, backlog=4096,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
    )  # fmt: skip
    Server(config).run(sockets=[listener])


def _open_context(settings: "Settings", listener: socket.socket) -> "ssl.SSLContext | None":
    """What the settings say; never plain HTTP beyond loopback, whatever they said when the socket was opened."""
    from models import tls
    from models.errors import SettingsError
    from models.names import is_loopback
    from models.settings import source

    context = tls.open_context(settings)
    if context is None and not is_loopback(listener.getsockname()[0]):
        raise SettingsError(source("hub_host"), "is not what it was when the stack was started; `fleetflow down`, then start it again")
    return context


def _map_buffers() -> None:
    """Have glibc map each large block by itself: uvloop makes one of 256 KiB for each connection with TLS, and uses its first page.

    Else its blocks come to lie among all others, whose pages are used up by and by: 13 KiB an agent.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def _mention_cut(home: Path, scheme: str) -> None:
    """Say whom it cuts off that this hub speaks TLS from now on, or no more: agents hold to the address that they joined at."""
    kept = home / "hub.scheme"
    former = kept.read_text() if kept.exists() else scheme
    if former != scheme:
        log.warning(
            "agents that joined by %s:// are cut off, since this hub speaks %s now: on their hosts `join --replace` enrols them anew",
            former,
            scheme,
        )
    kept.write_text(scheme)


def _collect_seldom() -> None:
    """Python looks for garbage in all that there is, which with ten thousand agents takes long, and each request brings that nearer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


def _allow_descriptors() -> int:
    """As many as we may have: each agent takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _await_database(url: str) -> None:
    """Wait until the database has this program's tables: the worker, which starts at the same time, makes them."""
    from models import database
    from models.errors import DatabaseVersionError, UnavailableError

    deadline = time.monotonic() + _MIGRATION
    while True:
        try:
            return database.probe(url)
        except UnavailableError as error:
            if time.monotonic() > deadline or (isinstance(error, DatabaseVersionError) and error.newer):
                raise
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
