"""Lets the transactions of Prefect's server wait for each other in Python rather than in SQLite.

Left alone, transactions that begin as readers and then write fail at once when somebody else has written (the API's 503),
and now and then the whole server stands still for 60 s: Python drops a cursor of a connection whose thread waits for
SQLite's lock, waits there for that connection, and so never lets the holder of the lock commit. Both were seen in one
of 30 to 100 flow runs, run one after another (prefect 3.8.8, Python 3.11); in turn, neither was.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration

_PATIENCE = 10.0  # seconds; then SQLite's own lock decides, as it would without us

_inside: ContextVar[bool] = ContextVar("inside_a_turn", default=False)


def take_turns() -> None:
    """Have all transactions of this process's Prefect server take turns."""
    begin = AioSqliteConfiguration.begin_transaction
    turn = asyncio.Lock()

    @asynccontextmanager
    async def begin_in_turn(self: AioSqliteConfiguration, session: Any, with_for_update: bool = False) -> AsyncIterator[Any]:
        if _inside.get():  # a transaction inside another one would wait for itself
            async with begin(self, session, with_for_update=with_for_update) as transaction:
                yield transaction
            return
        async with _hold(turn), begin(self, session, with_for_update=with_for_update) as transaction:
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_in_turn  # type: ignore[method-assign] # there is no setting for it


@asynccontextmanager
async def _hold(turn: asyncio.Lock) -> AsyncIterator[None]:
    held = await _acquire(turn)
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        if held:
            turn.release()


async def _acquire(turn: asyncio.Lock) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await turn.acquire()
    except TimeoutError:
        return False
