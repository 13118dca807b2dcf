import stat
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from models import database
from models.errors import DatabaseVersionError, NotFoundError, UnavailableError
from models.records import Claim, Decision, Finished, Outcome, Piece, Printed, Started, TaskSpec
from models.states import ExecutionState, TaskState
from models.store import Store
from models.tables import Base
from models.trail import AuditRow
from models.values import Command, ExecutorKind, Stream
from tests.models.conftest import Raw, migrate

OWNER = "machine:home:one"
SUCCEEDED = Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)


def spec(*hosts: str, flow_run_id: uuid.UUID | None = None, **command: Any) -> TaskSpec:
    return TaskSpec(name="test", command=Command(script="echo hi", **command), target=",".join(hosts), hosts=hosts, flow_run_id=flow_run_id)


def start(store: Store, claim: Claim, executor: ExecutorKind = ExecutorKind.SSH) -> bool:
    return store.write([Started(claim, 1.0, executor)])[0]


def finish(store: Store, claim: Claim, outcome: Outcome = SUCCEEDED, was: ExecutionState = ExecutionState.RUNNING) -> bool:
    return store.write([Finished(claim, 2.0, was, outcome, (), {})])[0]


def states(store: Store, task_id: int) -> dict[str, ExecutionState]:
    return {execution.host: execution.state for execution in store.executions(task_id)}


def test_a_task_is_opened_with_a_pending_row_for_every_host(store: Store) -> None:
    task = store.open_task(spec("web1", "web2", env={"A": "1"}, cwd="/tmp", stdin=b"\0\xff", timeout=2.5), OWNER)
    assert task.state is TaskState.PENDING
    assert task.command == Command(script="echo hi", env={"A": "1"}, cwd="/tmp", stdin=b"\0\xff", timeout=2.5)
    assert [(e.host, e.state, e.attempt) for e in store.executions(task.id)] == [
        ("web1", ExecutionState.PENDING, 0),
        ("web2", ExecutionState.PENDING, 0),
    ]


def test_how_a_command_runs_is_kept(store: Store) -> None:
    how: dict[str, Any] = {"become": "root", "become_password": "secret:A", "umask": "027"}
    how |= {"interpreter": ("/bin/bash", "-e"), "arguments": ("a b", "", "é\n")}
    assert store.open_task(spec("web1", **how), OWNER).command == Command(script="echo hi", **how)


def test_opening_twice_for_one_flow_run_gives_one_task(store: Store) -> None:
    flow_run_id = uuid.uuid4()
    first = store.open_task(spec("web1", flow_run_id=flow_run_id), OWNER)
    again = store.open_task(spec("web1", "web2", flow_run_id=flow_run_id), OWNER)
    assert again.id == first.id
    assert again.hosts == 1
    assert store.task_of_flow_run(flow_run_id) == again


def test_a_failing_write_in_the_middle_leaves_nothing_of_the_task(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.open_task(spec("web1", "web2", "web1"), OWNER)  # the same host twice breaks the third insert
    assert store.tasks() == []
    assert store.open_task(spec("web1"), OWNER).id == 1


def test_the_whole_life_of_an_execution(store: Store) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    assert store.task(task.id).state is TaskState.RUNNING
    assert start(store, claim)
    out = Printed(claim, (Piece(Stream.STDOUT, 0, b"hel"),))
    end = Finished(claim, 3.0, ExecutionState.RUNNING, SUCCEEDED, (Piece(Stream.STDOUT, 3, b"lo"),), {Stream.STDOUT: 7})
    assert store.write([out, end]) == [True, True]
    (execution,) = store.executions(task.id)
    assert (execution.state, execution.exit_code, execution.started_at, execution.finished_at) == (ExecutionState.SUCCEEDED, 0, 1.0, 3.0)
    assert execution.duration == 2.0
    assert execution.cut[Stream.STDOUT] == 7
    assert execution.attempt_id is not None
    assert b"".join(piece.data for piece in store.output(execution.attempt_id)) == b"hello"
    assert store.close_task(task.id).state is TaskState.SUCCEEDED


def test_a_late_writer_changes_nothing_and_its_neighbours_are_written(store: Store) -> None:
    task = store.open_task(spec("web1", "web2"), OWNER)
    old = store.claim(task.id, OWNER)
    new = store.claim(task.id, "machine:home:two")
    assert [claim.attempt.number for claim in new] == [2, 2]
    assert store.write([Started(old[0], 1.0), Started(new[1], 1.0)]) == [False, True]
    assert states(store, task.id) == {"web1": ExecutionState.QUEUED, "web2": ExecutionState.RUNNING}
    assert store.recount(task.id) == store.task(task.id).counts


def test_an_execution_starts_at_most_once(store: Store) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    assert start(store, claim)
    assert not start(store, claim)


def test_an_end_is_stored_once_however_often_it_is_reported(store: Store) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    start(store, claim)
    assert finish(store, claim)
    assert not finish(store, claim, Outcome(state=ExecutionState.FAILED, exit_code=3))
    assert states(store, task.id) == {"web1": ExecutionState.SUCCEEDED}


def test_a_resumed_task_runs_only_what_never_started(store: Store) -> None:
    task = store.open_task(spec("done", "gone", "waiting", "away"), OWNER)
    done, gone, _, away = store.claim(task.id, OWNER)
    start(store, done)
    finish(store, done)
    start(store, gone)
    finish(store, away, Outcome(state=ExecutionState.UNREACHABLE, error="refused"), ExecutionState.QUEUED)
    closed = store.close_task(task.id, canceled=True, reason="canceled")
    assert closed.state is TaskState.CANCELED
    assert states(store, task.id) == {
        "done": ExecutionState.SUCCEEDED,
        "gone": ExecutionState.LOST,
        "waiting": ExecutionState.CANCELED,
        "away": ExecutionState.UNREACHABLE,
    }
    assert [claim.host for claim in store.claim(task.id, OWNER)] == ["waiting", "away"]
    resumed = store.task(task.id)
    assert (resumed.state, resumed.finished_at, resumed.reason) == (TaskState.RUNNING, None, None)
    assert store.recount(task.id) == resumed.counts


def test_a_claim_ends_what_nobody_follows_any_more_as_lost(store: Store) -> None:
    task = store.open_task(spec("web1", "web2"), OWNER)
    first, _ = store.claim(task.id, OWNER)
    start(store, first)
    assert [claim.host for claim in store.claim(task.id, OWNER)] == ["web2"]
    assert states(store, task.id) == {"web1": ExecutionState.LOST, "web2": ExecutionState.QUEUED}


_OUTCOMES = st.sampled_from(
    [
        SUCCEEDED,
        Outcome(state=ExecutionState.FAILED, exit_code=3),
        Outcome(state=ExecutionState.TIMED_OUT, error="late"),
        Outcome(state=ExecutionState.LOST, error="gone"),
        Outcome(state=ExecutionState.CANCELED, error="asked"),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(outcomes=st.lists(st.none() | _OUTCOMES, min_size=1, max_size=12), closes=st.booleans(), groups=st.integers(1, 5))
def test_counters_always_equal_a_recount(store: Store, outcomes: list[Outcome | None], closes: bool, groups: int) -> None:
    task = store.open_task(spec(*(f"h{number}" for number in range(len(outcomes)))), OWNER)
    claims = store.claim(task.id, OWNER)
    pairs = [(claim, outcome) for claim, outcome in zip(claims, outcomes, strict=True) if outcome]
    for offset in range(0, len(pairs), groups):
        group = pairs[offset : offset + groups]
        store.write([Started(claim, 1.0) for claim, _ in group])
        assert store.recount(task.id) == store.task(task.id).counts
        store.write([Finished(claim, 2.0, ExecutionState.RUNNING, outcome, (), {}) for claim, outcome in group])
        assert store.recount(task.id) == store.task(task.id).counts
    if closes:
        store.close_task(task.id)
        assert store.recount(task.id) == store.task(task.id).counts
    assert sum(store.task(task.id).counts.values()) == len(outcomes)


def test_tasks_come_newest_first_in_pages(store: Store) -> None:
    numbers = store.create_tasks([spec("web1") for _ in range(25)])
    first = store.tasks(10)
    assert [task.id for task in first] == numbers[:-11:-1]
    assert [task.id for task in store.tasks(10, before=first[-1].id)] == numbers[-11:-21:-1]


def test_an_unknown_task_or_host_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no task 7"):
        store.task(7)
    task = store.open_task(spec("web1"), OWNER)
    with pytest.raises(NotFoundError, match="web2"):
        store.executions(task.id, "web2")


def test_five_writers_and_a_reader_never_see_a_locked_database(url: str) -> None:
    troubles: list[Exception] = []

    def work(number: int) -> None:
        try:
            own = Store.open(url)
            for _ in range(20):
                task = own.open_task(spec("a", "b", "c"), OWNER)
                for claim in own.claim(task.id, OWNER):
                    assert start(own, claim)
                    assert finish(own, claim)
                assert own.close_task(task.id).state is TaskState.SUCCEEDED
                own.tasks(number + 1)
            own.close()
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    store = Store.open(url)
    assert len(store.tasks(1000)) == 100
    store.close()


def test_the_file_is_private_and_in_wal_mode(tmp_path: Path, raw: Raw) -> None:
    path = tmp_path / "new" / "fleetflow.db"
    database.upgrade(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert raw(f"sqlite:///{path}", "PRAGMA journal_mode") == [("wal",)]


def test_the_migrations_make_the_tables_that_the_classes_declare(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = database.connect(url)
    with engine.connect() as connection:
        assert AuditRow.metadata is Base.metadata  # all tables are in there
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    assert ScriptDirectory(str(Path(database.__file__).parent / "migrations")).get_current_head() == database.VERSION


def test_the_database_itself_refuses_what_the_states_forbid(store: Store, url: str, raw: Raw) -> None:
    task = store.open_task(spec("web1"), OWNER)
    for statement in (
        "UPDATE execution SET state = 'odd'",
        "UPDATE execution SET state = 'running'",
        "UPDATE execution SET state = 'failed', started_at = 1, finished_at = 2",
        "UPDATE task SET succeeded = 1",
        "UPDATE task SET state = 'succeeded'",
        "INSERT INTO execution (task_id, host) VALUES (1, 'web1')",
    ):
        with pytest.raises(IntegrityError):
            raw(url, statement)
    assert store.task(task.id) == task


def test_a_database_of_a_newer_version_is_left_alone(url: str, raw: Raw) -> None:
    raw(url, "UPDATE alembic_version SET version_num = '9999'")
    for call in (Store.open, database.upgrade):
        with pytest.raises(DatabaseVersionError, match="newer fleetflow"):
            call(url)


def test_a_database_that_is_not_there_yet_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="holds nothing yet"):
        Store.open(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(UnavailableError, match="holds nothing yet"):
        Store.open(f"sqlite:///{tmp_path / 'empty.db'}")


def test_a_database_that_goes_away_does_not_come_back_empty(sqlite_url: str, tmp_path: Path) -> None:
    store = Store.open(sqlite_url)
    store.access.engine.dispose()
    (tmp_path / "fleetflow.db").unlink()
    for ask in (store.identity, store.tasks):
        with pytest.raises(UnavailableError, match="unable to open"):
            ask()
    assert not (tmp_path / "fleetflow.db").exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.db").write_bytes(b"not a database at all, but long enough to look at" * 50)
    with pytest.raises(UnavailableError, match=r"odd\.db"):
        Store.open(f"sqlite:///{tmp_path / 'odd.db'}")


def test_a_task_of_the_first_tables_is_kept_by_the_migrations(old_url: str, raw: Raw) -> None:
    migrate(old_url, "0001")
    raw(
        old_url,
        "INSERT INTO task (id, name, script, env, stdin, target, hosts, pending, created_at)"
        " VALUES (7, 'old', 'uptime', '{}', :nothing, 'web1', 1, 1, 1.0)",
        nothing=b"",
    )
    raw(old_url, "INSERT INTO execution (task_id, host) VALUES (7, 'web1')")
    database.upgrade(old_url)
    store = Store.open(old_url)
    assert store.task(7).command == Command(script="uptime")
    assert [execution.host for execution in store.executions(7)] == ["web1"]
    store.close()


def test_a_task_that_its_workers_death_found_waiting_ends_canceled_with_its_question(store: Store) -> None:
    task = store.open_task(spec("web1", "web2"), "machine:home:dead")
    question = store.ask(task.id, "Run it?")
    waiting = store.open_approval(task.id)
    assert waiting is not None
    assert (waiting.id, waiting.question, waiting.approved) == (question, "Run it?", None)
    assert store.settle(task.id, "machine:home:dead", [])
    ended = store.task(task.id)
    assert (ended.state, ended.reason, ended.counts[ExecutionState.CANCELED]) == (TaskState.CANCELED, "worker stopped", 2)
    assert store.open_approval(task.id) is None
    store.answer(question, Decision(approved=True, who="ann"))
    assert [(approval.approved, approval.who) for approval in store.approvals(task.id)] == [(False, None)], "too late"


def test_a_task_that_its_own_limits_kept_from_starting_has_failed(store: Store) -> None:
    task = store.open_task(spec("web1", "web2"), OWNER)
    store.claim(task.id, OWNER)
    closed = store.close_task(task.id, reason="the deadline has passed", unstarted="not started: the deadline has passed")
    assert (closed.state, set(states(store, task.id).values())) == (TaskState.FAILED, {ExecutionState.CANCELED})


def test_a_task_that_ended_before_anything_of_it_started_is_canceled(store: Store) -> None:
    task = store.open_task(spec("web1"), OWNER)
    store.claim(task.id, OWNER)
    assert store.close_task(task.id, reason="the flow run ended before it").state is TaskState.CANCELED
