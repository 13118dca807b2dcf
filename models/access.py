"""The one way into a database, for the store and for the rooms beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection, Engine, update

from models import database, postgres, workers
from models.errors import UnavailableError
from models.tables import StackRow

_TICK = update(StackRow).values(bus=StackRow.bus + 1).returning(StackRow.bus)


class Access:
    """Gives connections, to any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = database.writer(engine)
        self._owner: str | None = None  # the worker in whose name everything is written

    @classmethod
    def open(cls, url: str, *, cache_kib: int = 8192) -> Self:
        """Open the database at `url`; raises `UnavailableError` or `DatabaseVersionError`."""
        engine = database.connect(url, cache_kib=cache_kib)
        try:
            database.check_version(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        self.engine.dispose()

    def write_as(self, owner: str) -> None:
        """Write in this worker's name from now on, and no more once it was taken for dead."""
        self._owner = owner

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One view of the database; raises `UnavailableError`."""
        with database.explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, beside which nobody else writes; raises `LeaseLostError` and `UnavailableError`."""
        number = None  # of the transaction, once nothing is left of it but its commit
        try:
            with database.explained(), self._writer.begin() as connection:
                if self._owner is not None:
                    workers.check(connection, self._owner)
                yield connection
                number = postgres.number(connection)
        except UnavailableError:
            if number is None or not postgres.was_committed(self.engine, number):
                raise


def tick(connection: Connection) -> int:
    """The bus's next count. Whoever writes is alone, so what is seen in order was committed in order."""
    return connection.execute(_TICK).scalar_one()
