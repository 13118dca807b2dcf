"""One session with the wrapper on a host: opened, started, followed. The connection is given back with its end."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import paramiko

from executors.lifeline import Session
from executors.protocol import Sink
from executors.ssh.connection import Connection
from executors.ssh.conversation import Conversation, Ended
from executors.ssh.plan import Planner
from executors.ssh.pool import Pool
from executors.ssh.route import Route
from executors.ssh.threads import Threads
from models.errors import UnreachableError
from models.values import Host


class Run:
    """A session that is still to be prepared; after that, `follow` starts what it is for."""

    _connection: Connection
    _following: "asyncio.Future[Ended] | None" = None
    _is_given_back = False

    def __init__(self, host: str, pool: Pool, threads: Threads, session: Session, sink: Sink) -> None:
        self.host = host
        self.session = session
        self._pool = pool
        self._threads = threads
        self._sink = sink
        self._talk: Conversation | None = None

    async def prepare(self, route: Route, *, is_last: bool) -> bool:
        """Bring the host to the point where only the start is missing; False if the connection broke and may be replaced."""
        try:
            self._connection, (self._talk, ended) = await self._pool.open(self.host, route, self._sink.step, self._begin)
        except asyncio.CancelledError:
            self._abandon()
            raise
        if ended is Ended.READY:
            return True
        self.give_back(ended)
        if ended is Ended.CONNECTION and not is_last:
            return False
        raise UnreachableError(self.host, self._why_not_ready(ended))

    def _begin(self, connection: Connection, channel: paramiko.Channel) -> tuple[Conversation, Ended]:
        """In a thread: talk on a new session until the host is ready."""
        self._sink.step(self.session.step)
        self._talk = Conversation(connection, channel, self.session, self._sink)
        return self._talk, self._talk.prepare()

    async def follow(self) -> Ended:
        """Start, and follow to the end. A cancel goes through and leaves the session as it is; `await_end` waits on."""
        assert self._talk is not None  # noqa: S101 - prepare has returned True
        self._following = asyncio.wrap_future(self._threads.start(self._talk.start))
        try:
            return await asyncio.shield(self._following)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.drop()
            raise

    async def await_end(self, seconds: float) -> Ended:
        """Wait for the end of what `follow` has started, whatever comes: a second cancel does not make the host faster."""
        assert self._following is not None  # noqa: S101 - follow has been called
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self._following.done() and loop.time() < deadline:
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._following}, timeout=deadline - loop.time())
        return self._following.result() if self._following.done() else Ended.CONNECTION

    def say(self, line: bytes) -> None:
        """Send a line to the wrapper."""
        talk = self._talk
        if talk is not None:
            self._threads.start(lambda: talk.say(line))

    def hang_up(self) -> None:
        """End our side of the session."""
        if self._talk is not None:
            self._threads.start(self._talk.hang_up)

    async def close(self, last_word: bytes = b"") -> None:
        """Say a last word on a session that has told its verdict, and give it back."""
        talk = self._talk
        if talk is not None and not self._is_given_back:
            await self._threads.run(lambda: talk.close(last_word))
            self.give_back(Ended.MARK)

    def give_back(self, ended: Ended) -> None:
        """The connection may serve others, unless it is broken."""
        if not self._is_given_back:
            self._is_given_back = True
            self._pool.give_back(self._connection, healthy=ended is not Ended.CONNECTION)

    def drop(self) -> None:
        """Give up a session whose thread may be stuck, and the connection with it."""
        self.give_back(Ended.CONNECTION)
        self._abandon()

    @property
    def is_open(self) -> bool:
        """Whether there is still somebody to talk to."""
        return not self._is_given_back

    @property
    def why_closed(self) -> str:
        """What is known of the end of the connection, to be put behind a sentence."""
        return self._connection.why_closed

    def _why_not_ready(self, ended: Ended) -> str:
        if ended is Ended.REFUSED:
            return self.session.refusal or "the host refuses the command"
        if ended is Ended.SESSION and self.session.why_ended:
            return self.session.why_ended
        if ended is Ended.SESSION:
            said = self.session.last_words.decode(errors="backslashreplace").strip().splitlines()
            return f"the host ended the session before the command could start ({said[-1] if said else 'it said nothing'})"
        return f"the connection broke while starting the shell{self.why_closed}"

    def _abandon(self) -> None:
        if self._talk is not None:
            self._threads.start(self._talk.abandon)


@dataclass(frozen=True)
class Opener:
    """Opens sessions with hosts, over the connections of one pool."""

    pool: Pool
    planner: Planner
    threads: Threads

    async def open(self, host: Host, make: Callable[[], Session], sink: Sink) -> Run:
        """A session where only the start is missing, on a connection that was replaced once if need be; raises `UnreachableError`."""
        sink.step("reading the SSH configuration")
        route = await self.planner.route(host)
        if route.connect_timeout is not None:
            sink.allow(route.connect_timeout)
        run = Run(host.name, self.pool, self.threads, make(), sink)
        if await run.prepare(route, is_last=False):
            return run
        run = Run(host.name, self.pool, self.threads, make(), sink)
        await run.prepare(route, is_last=True)
        return run


async def begin(run: Run, sink: Sink) -> None:
    """Commit the start of a session that is ready for it; if that fails, it is never started."""
    try:
        await sink.starting()
    except BaseException:
        run.drop()
        raise
