"""Lets the writers of Prefect's server wait for each other in Python rather than in SQLite.

Left alone, transactions that begin as readers and then write fail at once when somebody else has written (the API's 503),
and now and then the whole server stands still for 60 s: Python drops a cursor of a connection whose thread waits for
SQLite's lock, waits there for that connection, and so never lets the holder of the lock commit. Both were seen in one
of 30 to 100 flow runs, run one after another, and two or three times among 20 large ones at once (prefect 3.8.8, Python 3.11);
in turn, neither was.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.util import await_only

_PATIENCE = 10.0  # seconds in which no turn ends; then SQLite's own lock decides, as it would without us
_BUSY = 250  # milliseconds that SQLite may wait for its lock, and all of the server with it; then the API says 503
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")

_inside: ContextVar[bool] = ContextVar("inside_a_turn", default=False)


def take_turns() -> None:
    """Have all that writes in this process's Prefect server take turns."""
    turns = _Turns()
    begin, setup = AioSqliteConfiguration.begin_transaction, AioSqliteConfiguration.setup_sqlite

    @asynccontextmanager
    async def begin_in_turn(self: AioSqliteConfiguration, session: Any, with_for_update: bool = False) -> AsyncIterator[Any]:
        if _inside.get():  # a transaction inside another one would wait for itself
            async with begin(self, session, with_for_update=with_for_update) as transaction:
                yield transaction
            return
        async with turns.taken(), begin(self, session, with_for_update=with_for_update) as transaction:
            yield transaction

    def setup_briefly(self: AioSqliteConfiguration, connection: Any, record: Any) -> None:
        setup(self, connection, record)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY}")
        cursor.close()

    AioSqliteConfiguration.begin_transaction = begin_in_turn  # type: ignore[method-assign] # there is no setting for it
    AioSqliteConfiguration.setup_sqlite = setup_briefly  # type: ignore[method-assign,assignment] # nor for this
    event.listen(Engine, "do_execute", turns.around(lambda cursor: cursor.execute))
    event.listen(Engine, "do_executemany", turns.around(lambda cursor: cursor.executemany))


class _Turns:
    """One writer at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._ended = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A turn for all that is done inside."""
        held = await self._take()
        token = _inside.set(True)
        try:
            yield
        finally:
            _inside.reset(token)
            if held:
                self._end()

    def around(self, how: Callable[[Any], Callable[[Any, Any], Any]]) -> Callable[..., bool]:
        """A listener that gives a turn to each statement that writes outside a transaction, where it commits by itself."""

        def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
            if not statement.startswith(_WRITES) or not _is_alone(context):
                return False
            held = await_only(self._take())
            try:
                how(cursor)(statement, parameters)
            finally:
                if held:
                    self._end()
            return True

        return execute

    async def _take(self) -> bool:
        while True:
            ended = self._ended
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await self._turn.acquire()
            except TimeoutError:
                if ended == self._ended:  # nobody will be done before us, perhaps since he waits for us
                    return False

    def _end(self) -> None:
        self._ended += 1
        self._turn.release()


def _is_alone(context: Any) -> bool:
    if _inside.get() or not context.dialect.is_async:
        return False
    return not context.root_connection.connection.driver_connection.in_transaction
