"""Prefect's API and UI as a process of the local stack: `python -m flows.server LISTENER LIFELINE`, two descriptor numbers.

It listens on a socket that the stack has opened, so that nobody else can take the port while it starts or is started
again, and ends when the stack does, however that ends.
"""

import socket
import sys
from functools import partial

from setproctitle import setproctitle

from models.lasting import lasting
from models.lifeline import end_with

# Prefect's UI loads an analytics library that calls its maker even where analytics are off; pages may ask this machine alone.
_POLICY = "connect-src 'self' data: blob: http://127.0.0.1:* ws://127.0.0.1:* http://localhost:* ws://localhost:*"


def main(listener: int, lifeline: int) -> None:
    """Serve until a signal comes or the lifeline ends."""
    setproctitle("fleetflow prefect-server")
    end_with(lifeline)
    with lasting():  # after the lifeline: the imports take seconds
        import uvicorn
        from prefect.server.api.server import create_app

        from flows.ringing import Ringing
        from flows.turns import take_turns
        from models import bells
        from models.settings import find_home

    take_turns()
    app = Ringing(create_app(final=True), partial(bells.ring, find_home(), bells.Kind.POLL))
    # On the event loop that Prefect is developed and was measured on; the hub alone has uvloop, which gains nothing here.
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", log_level="warning", timeout_graceful_shutdown=2,
        headers=[("content-security-policy", _POLICY)],
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
