"""Opens PostgreSQL as the store wants it: whoever writes is alone, and nobody who has gone away holds the others up.

Writers take turns by one advisory lock, as SQLite's do by its file: so ids, counters, the limit of a host and the bus are right without a
lock of their own, and no two writers wait for each other. Readers wait for nobody.
"""

import time
from contextlib import suppress
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from models.errors import SettingsError, UnavailableError
from models.settings import source

_DRIVER = "postgresql+psycopg"
_SPELLINGS = {"postgresql", "postgres", _DRIVER}  # libpq takes the first two
_TURN = 0x666C656574  # the advisory lock of all who write
_ALONE = f"SELECT pg_advisory_xact_lock({_TURN}), pg_current_xact_id()::text AS number"
_NUMBER = "fleetflow_transaction"
_PATIENCE = 60.0  # seconds that a server which went away has to say what became of a commit
_PAUSE = 0.2  # seconds
# What the URL may say otherwise. A server that has vanished without a word is given up within a minute, for the kernel waits for hours.
_CONNECTION = {
    "application_name": "fleetflow", "connect_timeout": "10", "tcp_user_timeout": "60000",
    "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3",
}  # fmt: skip
# As long as SQLite waits for another writer; and a writer that was stopped, or whose machine is gone, loses its turn.
_SESSION = "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'"


def is_postgres(url: URL) -> bool:
    return url.drivername in _SPELLINGS


def connect(url: URL) -> Engine:
    """An engine whose transactions each have one view of the database; raises `SettingsError` where the driver is missing."""
    driver = _find_driver()
    given = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    engine = create_engine(
        url.set(drivername=_DRIVER),
        connect_args=given,
        isolation_level="REPEATABLE READ",
        pool_pre_ping=True,  # the server may have been restarted since
        use_native_hstore=False,
    )
    event.listen(engine, "connect", lambda raw, _: _configure(raw, driver))
    event.listen(engine, "begin", _begin)
    return engine


def writing() -> dict[str, Any]:
    """What a connection that writes asks for: every statement sees what those who had their turn before have committed."""
    return {"write": True, "isolation_level": "READ COMMITTED"}


def _find_driver() -> ModuleType:
    try:
        import psycopg  # an extra: most keep their tasks in SQLite
        import psycopg.types.string
    except ImportError as error:
        reason = "PostgreSQL needs psycopg 3, which cannot be imported; `pip install 'fleetflow[postgres]'` installs it"
        raise SettingsError(source("database_url"), f"{reason} ({error})") from None
    return psycopg


def _configure(raw: Any, driver: ModuleType) -> None:
    raw.adapters.register_loader("uuid", driver.types.string.TextLoader)  # as our columns say, also to who reads without SQLAlchemy
    raw.autocommit, before = True, raw.autocommit
    raw.execute(_SESSION)
    raw.autocommit = before


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("write", False):
        connection.info[_NUMBER] = connection.exec_driver_sql(_ALONE).one().number


def number(connection: Connection) -> str | None:
    """The number of the transaction that writes, by which `was_committed` knows it; None in SQLite, whose commits answer."""
    found: str | None = connection.info.get(_NUMBER)
    return found


def was_committed(engine: Engine, number: str) -> bool:
    """What became of a transaction whose commit was asked for and not answered; waits until the server knows.

    Raises `UnavailableError`.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        with suppress(DBAPIError), engine.connect() as connection:
            status = connection.exec_driver_sql(f"SELECT pg_xact_status('{number}'::xid8)").scalar()
            if status != "in progress":
                return bool(status == "committed")
        if time.monotonic() > deadline:
            raise UnavailableError("database", "it went away in the middle of a commit, and nobody knows whether that was done")
        time.sleep(_PAUSE)
