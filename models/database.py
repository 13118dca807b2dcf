"""Opens the database, SQLite or PostgreSQL (postgres.py), and knows the version of its tables."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models import postgres
from models.errors import DatabaseVersionError, SettingsError, UnavailableError
from models.settings import source, without_password
from models.tables import VERSION

_EMPTY = "holds nothing yet; the first `fleetflow run` makes it, or `fleetflow db upgrade`"
_WRONG = "is no URL of SQLite or PostgreSQL: write sqlite:////PATH or postgresql://USER@HOST/DATABASE"
_NOTHING: dict[type, str] = {dict: "{}", list: "[]"}
_BUSY_TIMEOUT = 30_000  # milliseconds another writer may take


def connect(url: str, *, cache_kib: int = 8192, create: bool = False) -> Engine:
    """An engine for `url`; a SQLite file that is missing is created only when asked for. Raises `SettingsError`."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # its message may hold a password
        raise SettingsError(source("database_url"), _WRONG) from None
    if postgres.is_postgres(parsed):
        return postgres.connect(parsed)
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise SettingsError(source("database_url"), _WRONG)
    if parsed.database:
        _find(Path(parsed.database), create=create)
    engine = create_engine(parsed, json_serializer=_spell)
    if parsed.database:
        event.listen(engine, "do_connect", _open_as_it_is)
    event.listen(engine, "connect", lambda raw, _: _configure(raw, cache_kib))
    event.listen(engine, "begin", _begin)
    return engine


def writer(engine: Engine) -> Engine:
    """The same engine, whose transactions are alone from their BEGIN on: nobody else writes until they end."""
    options = {"write": True} if engine.dialect.name == "sqlite" else postgres.writing()
    return engine.execution_options(**options)


@contextmanager
def explained(what: str = "database") -> Iterator[None]:
    """Make one error of all that passes when the database is locked, full, gone or turned into a standby: `UnavailableError`."""
    try:
        yield
    except PoolTimeoutError:
        raise UnavailableError(what, "all of this process's connections are in use") from None
    except DBAPIError as error:
        if not (error.connection_invalidated or isinstance(error, OperationalError | InternalError)):
            raise
        raise UnavailableError(what, _first_line(error)) from error


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).splitlines()), type(error.orig).__name__)


def _find(path: Path, *, create: bool) -> None:
    if not create:
        if not path.exists():
            raise UnavailableError(f"database {path}", _EMPTY)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise UnavailableError(f"database {path}", error.strerror or str(error)) from None


def _spell(value: object) -> str:
    """A value as JSON. Most columns hold none, and to start an encoder for that was a fifth of a task's creation."""
    return (not value and _NOTHING.get(type(value))) or json.dumps(value)


def _open_as_it_is(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> None:
    """A file that goes away under a running process must not come back empty for whoever connects next."""
    arguments[0] = f"file:{quote(arguments[0])}?mode=rw"
    options["uri"] = True


def _configure(raw: sqlite3.Connection, cache_kib: int) -> None:
    raw.isolation_level = None  # we say BEGIN ourselves: the driver would do it too late
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_TIMEOUT}",
        f"cache_size=-{cache_kib}",
    ):
        raw.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(url: str) -> str:
    """Bring the database at `url` to this program's version, creating it when it is new; returns that version.

    Of several that do it at once one does, and the others wait for it. Raises `UnavailableError`.
    """
    from alembic import command, config  # a quarter of a second that only an upgrade needs

    engine = connect(url, create=True)
    try:
        found = _version(engine)
        _refuse_newer(engine, found)
        if found != VERSION:
            settings = config.Config(attributes={"engine": engine})
            settings.set_main_option("script_location", "models:migrations")
            try:
                command.upgrade(settings, "head")
            except DatabaseError as error:  # also where the user may not create tables
                raise UnavailableError(f"database {_name(engine)}", f"cannot be upgraded: {_first_line(error)}") from error
        return VERSION
    finally:
        engine.dispose()


def make(url: str) -> None:
    """Create the database at `url` where there is none; one that is there stays as it is. Raises `UnavailableError`."""
    engine = connect(url, create=True)
    try:
        is_new = _version(engine) is None
    finally:
        engine.dispose()
    if is_new:
        upgrade(url)


def check_version(engine: Engine) -> None:
    """Raise `DatabaseVersionError` unless the tables are of this program's version."""
    found = _version(engine)
    _refuse_newer(engine, found)
    if found is None:
        raise UnavailableError(f"database {_name(engine)}", _EMPTY)
    if found != VERSION:
        raise DatabaseVersionError(_name(engine), found, VERSION, newer=False)


def probe(url: str) -> None:
    """Ask as a newcomer: connections that are open outlive their file. Raises `UnavailableError`."""
    engine = connect(url)
    try:
        check_version(engine)
    finally:
        engine.dispose()


def _refuse_newer(engine: Engine, found: str | None) -> None:
    if found is not None and found > VERSION:
        raise DatabaseVersionError(_name(engine), found, VERSION, newer=True)


def _version(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except DatabaseError as error:
        raise UnavailableError(f"database {_name(engine)}", _first_line(error)) from None
    except sqlite3.DatabaseError as error:
        raise UnavailableError(f"database {_name(engine)}", str(error)) from None


def _name(engine: Engine) -> str:
    return without_password(str(engine.url.render_as_string(hide_password=True)))
