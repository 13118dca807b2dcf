"""What PostgreSQL alone can do to us: go away, in the middle of anything; turn away; and be written to by many machines."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text

from models import database
from models.access import Access
from models.errors import SettingsError, UnavailableError
from models.records import Piece, Printed, Started
from models.states import ExecutionState
from models.store import Store
from models.values import Stream
from tests.models.conftest import Raw
from tests.models.test_store import OWNER, spec, states
from tests.servers.cutting import run_cutting
from tests.servers.postgres import PostgresServer


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store.open(postgres_url)
    yield store
    store.close()


def test_a_url_is_written_as_people_write_it(postgres_url: str) -> None:
    for begin in ("postgres://", "postgresql+psycopg://"):
        Access.open(postgres_url.replace("postgresql://", begin)).close()
    for wrong in ("mysql://me:canary@db/fleet", "postgresql+asyncpg://me:canary@db/fleet", "no url, but canary"):
        with pytest.raises(SettingsError, match="is no URL of SQLite or PostgreSQL") as refused:
            database.connect(wrong)
        assert "canary" not in str(refused.value)


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    for url in (f"postgresql://me:canary@/fleet?host={tmp_path}", f"postgresql://me@/fleet?password=canary&host={tmp_path}"):
        with pytest.raises(UnavailableError, match=r"me.*@/fleet.*No such file") as refused:
            Store.open(url)
        assert "canary" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_a_missing_driver_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('no module of that name')")
    code = "import sys; sys.path.insert(0, sys.argv.pop()); from fleetflow.main import main; main()"
    environment = {"FLEETFLOW_HOME": str(tmp_path), "FLEETFLOW_DATABASE_URL": "postgresql://me@db/fleet"}
    done = subprocess.run([sys.executable, "-c", code, "db", "upgrade", str(tmp_path)], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == [
        "fleetflow: FLEETFLOW_DATABASE_URL: PostgreSQL needs psycopg 3, which cannot be imported;"
        " `pip install 'fleetflow[postgres]'` installs it (no module of that name)"
    ]


def test_a_user_who_may_make_no_tables_is_told_so(postgres: PostgresServer) -> None:
    with postgres.database(empty=True) as url:
        postgres.run("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
        with pytest.raises(UnavailableError, match="cannot be upgraded: permission denied for schema public"):
            database.upgrade(url.replace("tests@", "guest@"))


def test_a_reader_has_one_view_whatever_is_written_meanwhile(store: Store) -> None:
    with store.access.reading() as connection:
        before = connection.execute(text("SELECT count(*) FROM task")).scalar()
        store.open_task(spec("web1"), OWNER)
        assert connection.execute(text("SELECT count(*) FROM task")).scalar() == before == 0
    assert len(store.tasks()) == 1


def test_a_server_that_was_restarted_is_asked_again_and_what_it_cut_off_is_not_half_done(store: Store, postgres_url: str, raw: Raw) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    plain, task = Store.open(postgres_url), store.open_task(spec("web1"), OWNER)
    raw(postgres_url, cut)
    assert store.task(task.id) == task
    raw(postgres_url, cut)
    assert [line.id for line in store.tasks()] == [task.id]

    def write() -> None:
        with store.access.writing() as connection:
            connection.execute(text("UPDATE task SET reason = 'half'"))
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
            with plain.access.reading() as beside:
                beside.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            connection.execute(text("SELECT 1"))

    with pytest.raises(UnavailableError, match="terminating connection"):
        write()
    assert store.task(task.id) == task
    plain.close()


def test_a_writer_that_stands_still_loses_its_turn(store: Store, postgres_url: str) -> None:
    other = Store.open(postgres_url)
    waits = threading.Thread(target=other.open_task, args=(spec("web1"), OWNER))

    def stand_still() -> None:
        with store.access.writing() as connection:
            assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "10s", "less than a lease"
            connection.execute(text("SET idle_in_transaction_session_timeout = '100ms'"))
            waits.start()
            waits.join()  # for that it must have had its turn
            connection.execute(text("SELECT 1"))

    with pytest.raises(UnavailableError, match="idle-in-transaction"):
        stand_still()
    assert len(other.tasks()) == 1
    other.close()


def test_who_waits_too_long_for_its_turn_hears_that_the_database_is_busy(store: Store, postgres_url: str) -> None:
    impatient = Access.open(postgres_url)
    impatient.engine.dispose()
    event.listen(impatient.engine, "connect", lambda raw, _: raw.execute("SET lock_timeout = '50ms'") and raw.commit())
    with store.access.writing():
        with pytest.raises(UnavailableError, match="lock timeout"), impatient.writing():
            raise AssertionError
        with impatient.reading() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1, "readers wait for nobody"
    with impatient.writing():
        pass
    impatient.close()


@pytest.mark.parametrize("reaches", [True, False], ids=["done", "not done"])
def test_a_commit_whose_answer_is_lost_is_neither_repeated_nor_forgotten(postgres_url: str, tmp_path: Path, reaches: bool) -> None:
    plain = Store.open(postgres_url)
    place = postgres_url.partition("host=")[2]
    with run_cutting(Path(place), tmp_path, reaches=reaches) as cut:
        store = Store.open(postgres_url.replace(place, str(tmp_path)))
        task = store.open_task(spec("web1"), OWNER)
        (claim,) = store.claim(task.id, OWNER)
        entries = [Started(claim, 1.0), Printed(claim, (Piece(Stream.STDOUT, 0, b"hi"),))]
        cut.set()
        if reaches:
            assert store.write(entries) == [True, True], "it was done, though nobody heard so"
        else:
            with pytest.raises(UnavailableError):
                store.write(entries)
            assert states(plain, task.id) == {"web1": ExecutionState.QUEUED}
            assert store.write(entries) == [True, True]
        assert states(plain, task.id) == {"web1": ExecutionState.RUNNING}
        assert [piece.data for piece in plain.output(claim.attempt_id)] == [b"hi"]
        store.close()
    plain.close()
