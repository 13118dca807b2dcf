"""Opens the database: SQLite as we want it, PostgreSQL as it comes; and knows the version of its tables."""

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from models.errors import DatabaseVersionError, SettingsError, UnavailableError
from models.tables import VERSION

_EMPTY = "holds nothing yet; the first `fleetflow run` makes it, or `fleetflow db upgrade`"
_BUSY_TIMEOUT = 30_000  # milliseconds another writer may take


def connect(url: str, *, cache_kib: int = 8192, create: bool = False) -> Engine:
    """An engine for `url`; a SQLite file that is missing is created only when asked for.

    Writers ask for `execution_options(write=True)`, so that SQLite locks at BEGIN and not in the middle.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("database_url", str(error)) from None
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    if parsed.database:
        _find(Path(parsed.database), create=create)
    engine = create_engine(parsed)
    if parsed.database:
        event.listen(engine, "do_connect", _open_as_it_is)
    event.listen(engine, "connect", lambda raw, _: _configure(raw, cache_kib))
    event.listen(engine, "begin", _begin)
    return engine


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
    """Bring the database at `url` to this program's version, creating it when it is new; returns that version."""
    from alembic import command, config  # a quarter of a second that only an upgrade needs

    engine = connect(url, create=True)
    try:
        found = _version(engine)
        _refuse_newer(engine, found)
        if found != VERSION:
            settings = config.Config(attributes={"engine": engine})
            settings.set_main_option("script_location", "models:migrations")
            command.upgrade(settings, "head")
        return VERSION
    finally:
        engine.dispose()


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
        raise UnavailableError(f"database {_name(engine)}", str(error.orig).splitlines()[0]) from None
    except sqlite3.DatabaseError as error:
        raise UnavailableError(f"database {_name(engine)}", str(error)) from None


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
