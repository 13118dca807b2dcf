"""What `make profile NAME=hub` profiles: a hub whose 1,000 simulated agents join, take three commands each, and come back after a cut.

The hub is this process, and nothing else is: the agents, and the worker that hands out the commands, are processes of their own.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from load_fleet import run_fleet

from executors.agent.executor import ByAgent
from hub.serve import serve
from models import database
from models.access import Access
from models.agents import Agents
from models.audit import Actor
from models.settings import Settings
from models.store import Store
from models.values import Attempt, Command, Host
from tests.executors.sinks import Collector

AGENTS = 1000
ROUNDS = 3
_SECONDS = 240.0  # until the agents end


def drive(url: str) -> None:
    """What happens to the hub; in a process of its own."""
    settings = Settings.load()
    token = Agents(Access.open(settings.database)).make_token(seconds=600, uses=AGENTS, approves=True, by=Actor("profile", "profile"))
    store = Store.open(settings.database)
    store.take_lease("profile", 600)
    with run_fleet(url, token, AGENTS, _SECONDS) as fleet:
        fleet.await_online(120)
        asyncio.run(_run(ByAgent(settings, store.access, "profile"), fleet.hosts))
        fleet.drop(AGENTS)
        fleet.await_online(60)


async def _run(executor: ByAgent, hosts: tuple[Host, ...]) -> None:
    for _ in range(ROUNDS):
        command = Command(script="true")
        runs = [(Attempt(id=uuid.uuid4()), host) for host in hosts]
        await asyncio.gather(*(executor.run(attempt, host, command, Collector()) for attempt, host in runs))
        for attempt, host in runs:
            await executor.ack(attempt, host)
    await executor.aclose()


def main() -> None:
    """Be the hub until all of that has happened."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        os.environ["FLEETFLOW_HOME"] = name
        database.upgrade(f"sqlite:///{Path(name) / 'fleetflow.db'}")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn ends by it, and raises it once more then
        driver = subprocess.Popen([sys.executable, __file__, url])
        serve(socket.socket(fileno=os.dup(listener.fileno())))
        assert driver.wait(60) == 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        try:
            drive(sys.argv[1])
        finally:
            os.kill(os.getppid(), signal.SIGTERM)
    else:
        main()
