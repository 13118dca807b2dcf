"""Makes agents that need nobody's approval hosts of the inventory: many at once, since each change writes a whole file."""

import logging
import threading
from pathlib import Path

from models.enlisting import enlist
from models.errors import FleetflowError

log = logging.getLogger(__name__)


class Enlister:
    """Writes names to the inventory, in a thread of its own that takes all that have come meanwhile."""

    def __init__(self, home: Path) -> None:
        self._home = home
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

    def close(self) -> None:
        """Write what is left."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        while names := self._next():
            try:
                for name, place in enlist(self._home, names).items():
                    log.warning("agent %s: the inventory reaches this host otherwise: %s", name, place)
            except FleetflowError as error:
                log.warning("agents %s are not in the inventory: %s", ", ".join(sorted(names)[:10]), error)

    def _next(self) -> set[str]:
        with self._news:
            while not self._names and not self._closing:
                self._news.wait()
            names, self._names = self._names, set()
            return names
