"""A database that is read and written by several rooms beside the store."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection, Engine, update
from sqlalchemy.exc import OperationalError

from models import database, workers
from models.errors import UnavailableError
from models.tables import StackRow

_TICK = update(StackRow).values(bus=StackRow.bus + 1).returning(StackRow.bus)


class Access:
    """Gives connections. A writer with an `owner` writes in that worker's name, and no more once it was taken for dead."""

    def __init__(self, engine: Engine, owner: str | None = None) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._owner = owner

    @classmethod
    def open(cls, url: str, owner: str | None = None, *, cache_kib: int = 8192) -> Self:
        """Open the database at `url`; raises `UnavailableError` or `DatabaseVersionError`."""
        engine = database.connect(url, cache_kib=cache_kib)
        try:
            database.check_version(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, owner)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One view of the database."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except OperationalError as error:
            raise UnavailableError("database", str(error.orig)) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; raises `LeaseLostError`."""
        try:
            with self._writer.begin() as connection:
                if self._owner is not None:
                    workers.check(connection, self._owner)
                yield connection
        except OperationalError as error:  # locked, full, gone
            raise UnavailableError("database", str(error.orig)) from error


def tick(connection: Connection) -> int:
    """The bus's next count. Until this transaction ends nobody else gets one, so what is seen in order was committed in order."""
    return connection.execute(_TICK).scalar_one()
