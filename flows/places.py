"""Keeps the number of commands that run on a host at the same time within its limit, over all tasks and workers.

What this process runs is counted here, so that nobody asks the database for it. What other workers run is in the database alone:
it refuses the start that would be one too many, and is then asked now and then, once for all hosts that somebody waits for.
"""

import asyncio
import logging
from collections import Counter, defaultdict

from models.errors import FleetflowError
from models.store import Store

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two questions to the database


class Places:
    """The places on all hosts. Belongs to one event loop."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._taken: Counter[str] = Counter()  # by this process
        self._full: set[str] = set()  # by others, as the database has told
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None

    def on(self, host: str) -> "Place":
        """A place on a host, not yet taken."""
        return Place(self, host)

    def close(self) -> None:
        """Ask the database no more."""
        if self._looking is not None:
            self._looking.cancel()

    def is_full(self, host: str) -> bool:
        return self._taken[host] >= self._limit or host in self._full

    def take(self, host: str) -> None:
        self._taken[host] += 1

    def give(self, host: str) -> None:
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]
        if host not in self._full:
            self._wake(host)

    async def wait(self, host: str) -> None:
        """Return once there is a place on the host; the next one to take it may be somebody else."""
        while self.is_full(host):
            turn = asyncio.get_running_loop().create_future()
            self._waiting[host].add(turn)
            try:
                await turn
            finally:
                self._leave(host, turn)

    def refuse(self, host: str) -> None:
        """Take in that the database has refused a start on the host."""
        self._full.add(host)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def _leave(self, host: str, turn: "asyncio.Future[None]") -> None:
        self._waiting[host].discard(turn)
        if not self._waiting[host]:
            del self._waiting[host]

    def _wake(self, host: str) -> None:
        for turn in self._waiting.get(host, ()):
            if not turn.done():
                turn.set_result(None)

    async def _look(self) -> None:
        while self._full:
            await asyncio.sleep(_LOOK)
            asked = set(self._full)
            try:
                busy = await asyncio.to_thread(self._store.busy_hosts, asked)
            except FleetflowError as error:
                log.warning("cannot ask which hosts are busy: %s", error)
                continue
            for host in asked - busy:
                self._full.discard(host)
                self._wake(host)


class Place:
    """One place on one host, to be taken, given back and taken again."""

    def __init__(self, places: Places, host: str) -> None:
        self._places = places
        self._host = host
        self._is_taken = False

    @property
    def is_free(self) -> bool:
        return not self._places.is_full(self._host)

    async def wait(self) -> None:
        """Return once there seems to be a place."""
        await self._places.wait(self._host)

    def take(self) -> bool:
        """Take the place; False when somebody else was faster."""
        if not self._is_taken and not self._places.is_full(self._host):
            self._places.take(self._host)
            self._is_taken = True
        return self._is_taken

    def give(self) -> None:
        """Give the place back, if it was taken."""
        if self._is_taken:
            self._is_taken = False
            self._places.give(self._host)

    def refuse(self) -> None:
        """Give the place back, since the database knows that others have them all."""
        self._places.refuse(self._host)
        self.give()
