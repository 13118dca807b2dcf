"""A real PostgreSQL server, with a database of its own for each test."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from models import database
from models.trail import AuditRow
from tests.programs import need
from tests.until import until

_TEMPLATE = "prepared"  # has today's tables
_EMPTY = "; ".join(
    [
        *(f"DELETE FROM {table.name}" for table in reversed(AuditRow.metadata.sorted_tables)),  # noqa: S608 - our own names
        "SELECT setval(sequencename::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public'",
        f"UPDATE alembic_version SET version_num = '{database.VERSION}'",  # noqa: S608
        "INSERT INTO stack (id) VALUES (gen_random_uuid())",
    ]
)


class PostgresServer:
    """Listens on a Unix socket alone; whoever may open that is its superuser."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._as_whom = _somebody(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []  # databases with today's tables, and nothing in them
        subprocess.run(
            [need("setpriv"), *self._as_whom, need("initdb"), "--no-sync", "--no-instructions", "--auth=trust", "--username=tests",
             # Words in the order of a dictionary, as most servers have it, and not by their bytes as SQLite has it.
             "--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en", "-D", folder / "cluster"],
            cwd=folder, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        self.start()
        self.run(f"CREATE DATABASE {_TEMPLATE}")
        database.upgrade(self.url(_TEMPLATE))

    def start(self) -> None:
        """Start it, and wait until it answers. It ends with this process whatever happens."""
        options = (
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "listen_addresses=",
            f"unix_socket_directories={self._folder}",
        )
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [need("setpriv"), *self._as_whom, "--pdeathsig=INT", need("postgres"), "-D", self._folder / "cluster",
                 *(word for option in options for word in ("-c", option))],
                cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._answers, 60, "PostgreSQL")

    def stop(self) -> None:
        """Cut all connections, and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def url(self, name: str) -> str:
        return f"postgresql://tests@/{name}?host={self._folder}"

    def run(self, statement: str) -> None:
        """Run a statement outside all transactions."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """The URL of a new database with today's tables, or without any."""
        name = self._free.pop() if self._free and not empty else self._make("template0" if empty else _TEMPLATE)
        yield self.url(name)
        if empty:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")
        else:
            self._clear(name)
            self._free.append(name)

    def _make(self, template: str) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        # Nothing of this server need outlive it: to copy files costs less than to log their pages.
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def _clear(self, name: str) -> None:
        """Make a database as it was: to copy it takes ten times as long, and to truncate its tables three times."""
        with psycopg.connect(self.url(name)) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", [name]
            )
            connection.execute(_EMPTY.encode())

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """A new server, on a folder that goes with it."""
    need("initdb")
    folder = Path(tempfile.mkdtemp(prefix="fleetflow-postgres-"))
    try:
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _somebody(folder: Path) -> list[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
