import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Executable, text

from models import database
from models.access import Access
from models.store import Store
from tests.servers.postgres import PostgresServer

Raw = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with today's tables, copied by each test: migrating takes a quarter of a second."""
    path = tmp_path_factory.mktemp("template") / "fleetflow.db"
    database.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(template: Path, tmp_path: Path) -> str:
    shutil.copy(template, tmp_path / "fleetflow.db")
    return f"sqlite:///{tmp_path / 'fleetflow.db'}"


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """What holds for one database holds for the other."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def old_url(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[str]:
    """A database of the same kind, without any tables."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'old.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.database(empty=True) as empty:
            yield empty


@pytest.fixture
def raw() -> Raw:
    """Runs a statement as somebody else would, beside the store."""

    def run(url: str, statement: str, **values: object) -> list[Any]:
        engine = database.connect(url)
        try:
            with database.writer(engine).begin() as connection:
                done = connection.execute(text(statement), values)
                return list(done) if done.returns_rows else []
        finally:
            engine.dispose()

    return run


def migrate(url: str, version: str) -> None:
    """Make a database as an older program left it."""
    from alembic import command, config

    engine = database.connect(url, create=True)
    settings = config.Config(attributes={"engine": engine})
    settings.set_main_option("script_location", "models:migrations")
    command.upgrade(settings, version)
    engine.dispose()


def explain(access: Access, query: Executable) -> list[str]:
    """The lines of the database's plan for a query."""
    with access.reading() as connection:
        query = str(query.compile(access.engine, compile_kwargs={"literal_binds": True}))  # type: ignore[attr-defined]  # all of ours do
        if access.engine.dialect.name == "sqlite":
            return [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # as with a long history: small tables are read as they are
        return list(connection.exec_driver_sql(f"EXPLAIN {query}").scalars())


@pytest.fixture
def access(url: str) -> Iterator[Access]:
    access = Access.open(url)
    yield access
    access.close()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()
