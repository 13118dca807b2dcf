"""Makes agents that need nobody's approval hosts of the inventory: many at once, since each change writes a whole file."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from models.agents import AT_JOIN, Agent
from models.enlisting import written_at
from models.states import AgentState

log = logging.getLogger(__name__)

_UNSURE = 60.0  # seconds before the file was last written: who joined then may not have been taken along
_REST = 10  # times as long as a write took, until the next one: of ten thousand that join, each write takes a second of the processor
_LEAST = 1.0  # seconds of it


class Enlister:
    """Writes names to the inventory, in a thread of its own that takes all that have come meanwhile."""

    def __init__(self, home: Path, ssh_config: Path) -> None:
        self._home = home
        self._ssh_config = ssh_config
        self._names: set[str] = set()
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="enlister", daemon=True)
        self._thread.start()

    def add(self, name: str) -> None:
        """Make this agent a host soon."""
        with self._news:
            self._names.add(name)
            self._news.notify()

    def catch_up(self, agents: Iterable[Agent]) -> None:
        """Make those hosts for which a hub that was killed had no time: they need nobody's approval, and are younger than the file."""
        since = written_at(self._home) - _UNSURE
        for agent in agents:
            if agent.state is AgentState.APPROVED and agent.decided_by == AT_JOIN and agent.joined_at > since:
                self.add(agent.name)

    def close(self) -> None:
        """Write what is left."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        while names := self._next():
            began = time.monotonic()
            try:
                self._enlist(sorted(names))
            except OSError as error:
                log.warning("agents are no hosts yet, since no process is to be had: %s", error.strerror)
                self._take_back(names)
            self._rest(max(_LEAST, _REST * (time.monotonic() - began)))

    def _enlist(self, names: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hub.enlist", str(self._home), str(self._ssh_config)],
            input=json.dumps(names), capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            log.warning("agents %s are not in the inventory: %s", ", ".join(names[:10]), done.stderr.strip().rpartition("\n")[2])
            return
        for name, place in json.loads(done.stdout).items():
            log.warning("agent %s: the inventory reaches this host otherwise: %s", name, place)

    def _take_back(self, names: set[str]) -> None:
        with self._news:
            if not self._closing:  # else the next hub catches up
                self._names |= names

    def _rest(self, seconds: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self._closing, seconds)

    def _next(self) -> set[str]:
        with self._news:
            while not self._names and not self._closing:
                self._news.wait()
            names, self._names = self._names, set()
            return names
