"""The worker's socket: the command line rings here after it has sent a flow run, and is told when that run has ended.

One JSON object a line. `{"watch": "<flow run id>"}` makes the worker look for new runs at once, where Prefect's server is not
ours and cannot ring for itself (ringing.py), and is answered when the run
has ended here: `{"flow_run_id": ..., "state": "COMPLETED", "name": "Completed", "message": ...}`, with the results of a small
task (answers.py); a run that never comes here is never answered. `{"ping": true}` is answered with who the worker is.
"""

import asyncio
import contextlib
import json
import logging
import socket
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from models.sockets import short_path

log = logging.getLogger(__name__)

_LINE = 4096  # bytes
_CLIENTS = 256  # connections at once
_WATCHES = 1000  # runs that one client may watch
_REMEMBERED = 1000  # runs that have ended
_SILENCE = 10.0  # seconds in which a client has to say what it wants

Answer = Mapping[str, object]
_NOTHING: Answer = {}


class Doorbell:
    """Rings `on_ring` when somebody watches, and tells the watchers of a run how it ended."""

    def __init__(self, identity: Answer, on_ring: Callable[[], None]) -> None:
        self._identity = identity
        self._on_ring = on_ring
        self._ended: OrderedDict[uuid.UUID, Answer] = OrderedDict()
        self._watchers: defaultdict[uuid.UUID, set[asyncio.StreamWriter]] = defaultdict(set)
        self._clients: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self, path: Path) -> AsyncIterator[None]:
        """Listen at `path`, for our user alone. The caller holds the lock that makes us the only worker of this home."""
        server = await asyncio.start_unix_server(self._serve, sock=_bind(path), limit=_LINE)
        try:
            yield
        finally:
            server.close()
            _remove(path)
            for client in self._clients:
                client.cancel()

    def is_watched(self, flow_run_id: uuid.UUID) -> bool:
        return flow_run_id in self._watchers

    def tell(self, flow_run_id: uuid.UUID, answer: Answer, results: Answer = _NOTHING) -> None:
        """Answer those who watch a run, now and later; only those who watch it now get its results too."""
        self._ended[flow_run_id] = answer
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        for writer in self._watchers.pop(flow_run_id, ()):
            _send(writer, {**answer, **results})

    def forget(self, flow_run_id: uuid.UUID) -> None:
        """A run begins, perhaps once more: an earlier end is no answer any longer."""
        self._ended.pop(flow_run_id, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= _CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        watched: set[uuid.UUID] = set()
        try:
            await self._answer_all(reader, writer, watched)
        except (OSError, ValueError, RecursionError, asyncio.CancelledError):
            log.debug("a client of the worker's socket went away, or talked nonsense", exc_info=True)
        finally:
            self._clients.discard(task)
            self._leave(writer, watched)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watched: set[uuid.UUID]) -> None:
        while line := await _read(reader, None if watched else _SILENCE):
            request = json.loads(line)
            if not isinstance(request, dict):
                return
            if "ping" in request:
                _send(writer, self._identity)
            elif len(watched) < _WATCHES:
                self._watch(uuid.UUID(str(request.get("watch"))), writer, watched)
            await writer.drain()

    def _watch(self, flow_run_id: uuid.UUID, writer: asyncio.StreamWriter, watched: set[uuid.UUID]) -> None:
        if answer := self._ended.get(flow_run_id):
            _send(writer, answer)
            return
        watched.add(flow_run_id)
        self._watchers[flow_run_id].add(writer)
        self._on_ring()

    def _leave(self, writer: asyncio.StreamWriter, watched: set[uuid.UUID]) -> None:
        for flow_run_id in watched:
            watchers = self._watchers.get(flow_run_id, set())
            watchers.discard(writer)
            if not watchers:
                self._watchers.pop(flow_run_id, None)


async def _read(reader: asyncio.StreamReader, silence: float | None) -> bytes:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(silence):
            return await reader.readline()
    return b""


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_path(path) as short:
        listener.bind(short)
    path.chmod(0o600)
    listener.listen(_CLIENTS)
    return listener


def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(answer).encode() + b"\n")
