"""Writes to a database of Prefect's kind, inside and outside transactions, with turns taken: `python turning.py DATABASE`."""

import asyncio
import sys

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text

from flows.turns import take_turns

HELD = 1.0  # seconds; four times as long as SQLite may wait
INSERT = text("INSERT INTO line VALUES (:who)")


async def main(path: str) -> None:
    """Print who wrote when another one held a transaction for a while, in the order in which they did."""
    take_turns()
    configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await configuration.engine()
    begun = asyncio.Event()

    async def hold() -> None:
        async with await configuration.session(engine) as session, configuration.begin_transaction(session):
            await session.execute(INSERT, {"who": "holder"})
            begun.set()
            await asyncio.sleep(HELD)

    async def write_alone() -> None:
        await begun.wait()
        async with await configuration.session(engine) as session:
            await session.execute(INSERT, {"who": "alone"})
            await session.commit()

    async def write_many() -> None:
        await begun.wait()
        async with await configuration.session(engine) as session:
            await session.execute(INSERT, [{"who": "one of many"}, {"who": "one of many"}])
            await session.commit()

    async def write_in_a_transaction() -> None:
        await begun.wait()
        async with await configuration.session(engine) as session, configuration.begin_transaction(session):
            await session.execute(text("SELECT count(*) FROM line"))
            await session.execute(INSERT, {"who": "transaction"})

    async def read() -> None:
        await begun.wait()
        async with await configuration.session(engine) as session:
            print("read", (await session.execute(text("SELECT count(*) FROM line"))).scalar_one())  # noqa: T201 - read by the test

    async with await configuration.session(engine) as session:
        await session.execute(text("CREATE TABLE line (who TEXT)"))
    await asyncio.gather(hold(), write_alone(), write_many(), write_in_a_transaction(), read())
    async with await configuration.session(engine) as session:
        print(*(await session.execute(text("SELECT who FROM line ORDER BY rowid"))).scalars(), sep="\n")  # noqa: T201 - as above
    await engine.dispose()


asyncio.run(main(sys.argv[1]))
