"""What the pages ask of the database: in the right order, in bounded parts, and by its indexes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from models.audit import Actor
from models.current import CurrentInventory
from models.errors import NotFoundError
from models.fleet import Fleet
from models.records import Claim, Execution, Finished, Outcome, Piece, Started, TaskSpec
from models.states import ExecutionState, TaskState
from models.store import Store
from models.tokens import Role, Scope, Tokens
from models.values import Command, Stream
from models.views import ATTENTION, HEAD, Place, Views

S = ExecutionState
FINAL = [S.FAILED, S.TIMED_OUT, S.CANCELED, S.LOST, S.SUCCEEDED]


@pytest.fixture
def views(store: Store) -> Views:
    return Views(store.access)


def open_task(store: Store, *hosts: str) -> list[Claim]:
    task = store.open_task(TaskSpec(name="n", command=Command(script="true"), target="t", hosts=hosts), "me")
    return store.claim(task.id, "me")


def outcome(state: S) -> Outcome:
    return Outcome(state=state, exit_code={S.FAILED: 1, S.SUCCEEDED: 0}.get(state))


def end(store: Store, claim: Claim, state: S, *pieces: Piece) -> None:
    store.write([Started(claim, time.time()), Finished(claim, time.time(), S.RUNNING, outcome(state), pieces, {})])


def all_pages(ask: Callable[[Place | None], list[Execution]]) -> list[str]:
    found: list[str] = []
    after = None
    while page := ask(after):
        found += [execution.host for execution in page]
        after = Place(page[-1].state, page[-1].host)
    return found


def test_pages_of_hosts_have_each_once_and_what_went_wrong_first(store: Store, views: Views) -> None:
    claims = open_task(store, *(f"h{number:02}" for number in range(60)))
    task = claims[0].task_id
    for number, claim in enumerate(claims[:40]):
        end(store, claim, FINAL[number % 5])
    store.write([Started(claim, time.time()) for claim in claims[40:50]])
    places = {execution.host: (ATTENTION.index(execution.state), execution.host) for execution in store.executions(task)}
    expected = sorted(places, key=lambda host: places[host])
    assert all_pages(lambda after: views.hosts(task, 7, after=after)) == expected
    running = [host for host in expected if places[host][0] == ATTENTION.index(S.RUNNING)]
    assert all_pages(lambda after: views.hosts(task, 3, after=after, state=S.RUNNING)) == running
    assert all_pages(lambda after: views.hosts(task, 7, after=after, find="5")) == [host for host in expected if "5" in host]
    assert views.hosts(task, 7, find="%") == [], "a sign of LIKE is no wildcard"


def test_lists_with_a_filter_look_through_so_many_tasks_and_go_on_from_there(
    store: Store, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(store.access)
    ci = tokens.find(tokens.create("ci", Role.OPERATOR, Actor("tests", "tests"), scope=Scope("t", "true")))
    one = TaskSpec(name="n", command=Command(script="true"), target="t", hosts=("h",))
    numbers = store.create_tasks([replace(one, created_by="token ci" if number in {2, 3, 21} else None) for number in range(1, 26)])
    page = views.lines(10)
    assert [line.id for line in page.lines] == numbers[:-11:-1]
    assert [line.id for line in views.lines(10, before=page.older).lines] == numbers[14:4:-1]
    assert views.lines(10, before=6).older is None
    found, before = [], None
    while True:
        page = views.lines(1, before=before, theirs=ci)
        found += [line.id for line in page.lines]
        if (before := page.older) is None:
            break
    assert found == [21, 3, 2]
    assert views.lines(10, state=TaskState.FAILED).lines == []
    with pytest.raises(NotFoundError):
        views.line(26)


def test_a_range_reads_what_is_stored_there_and_says_where_to_go_on(store: Store, views: Views) -> None:
    (claim,) = open_task(store, "h")
    head, tail = b"0123456789" * 10, b"abcdefghij" * 10
    end(
        store,
        claim,
        S.SUCCEEDED,
        *(Piece(Stream.STDOUT, at, head[at : at + 7]) for at in range(0, 100, 7)),
        Piece(Stream.STDOUT, 500, tail),
    )
    attempt = claim.attempt_id

    def read(start: int | None, size: int) -> tuple[bytes, int | None, int | None]:
        found = views.output(attempt, Stream.STDOUT, start, size)
        data = b"".join(piece.data[: found.end - piece.offset] for piece in found.pieces)
        assert found.size == 600
        assert all(piece.data for piece in found.pieces), "what lies before is not read"
        return data, found.before, found.after

    assert read(0, 10) == (head[:10], None, 10)
    assert read(33, 20) == (head[33:53], 33, 53)
    assert read(95, 20) == (head[95:], 95, 500), "the next part begins behind what was left out"
    assert read(200, 50) == (b"", 100, 500)
    assert read(490, 20) == (tail[:10], 100, 510)
    assert read(None, 30) == (tail[70:], 570, None)
    assert read(5000, 10) == (b"", 600, None)
    assert views.sizes(attempt) == {Stream.STDOUT: 600, Stream.STDERR: 0}


def test_heads_are_bounded_and_say_whether_they_are_all(store: Store, views: Views) -> None:
    claims = open_task(store, "small", "large", "silent", "torn")
    small, large, silent, torn = claims
    end(store, small, S.SUCCEEDED, Piece(Stream.STDOUT, 0, b"hi\n"), Piece(Stream.STDERR, 0, b"oh\n"))
    end(store, large, S.SUCCEEDED, Piece(Stream.STDOUT, 0, b"x" * 3000), Piece(Stream.STDOUT, 3000, b"y" * 100_000))
    end(store, silent, S.SUCCEEDED)
    end(store, torn, S.SUCCEEDED, Piece(Stream.STDOUT, 0, b"a"), Piece(Stream.STDOUT, 100, b"b"))
    heads = views.heads([claim.attempt_id for claim in claims])
    assert heads[small.attempt_id].data == {Stream.STDOUT: b"hi\n", Stream.STDERR: b"oh\n"}
    assert heads[large.attempt_id].data[Stream.STDOUT] == b"x" * 3000 + b"y" * (HEAD - 3000)
    assert heads[large.attempt_id].sizes[Stream.STDOUT] == 103_000
    assert heads[torn.attempt_id].data[Stream.STDOUT] == b"a", "what was left out is not skipped in silence"
    assert [heads[claim.attempt_id].is_whole for claim in claims] == [True, False, True, False]


@contextmanager
def explained(store: Store) -> Iterator[dict[str, list[str]]]:
    """The plans of the statements that are run meanwhile."""
    plans: dict[str, list[str]] = {}

    def explain(connection: Connection, cursor: object, statement: str, parameters: tuple[object, ...], *_: object) -> None:
        if statement.startswith("SELECT"):
            raw = connection.connection.cursor()
            raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans[statement] = [row[3] for row in raw.fetchall()]

    event.listen(store.access.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(store.access.engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # PostgreSQL has the same indexes, and reads small tables without them
def test_every_question_uses_an_index(store: Store, views: Views) -> None:
    claims = open_task(store, "a", "b")
    task, attempt = claims[0].task_id, claims[0].attempt_id
    end(store, claims[0], S.FAILED, Piece(Stream.STDOUT, 0, b"hi\n"))
    with explained(store) as plans:
        for state in (None, TaskState.RUNNING):
            views.lines(10, state=state)
        views.line(task)
        views.task(task)
        views.approvals(task)
        for after, one in ((None, None), (Place(S.FAILED, "a"), None), (Place(S.FAILED, "a"), S.FAILED)):
            views.hosts(task, 10, after=after, state=one)
        views.attempts(task, "a")
        views.heads([attempt])
        views.sizes(attempt)
        views.output(attempt, Stream.STDOUT, 1, 1)
        views.history("a", 10)
    assert len(plans) > 15
    scans = [step for steps in plans.values() for step in steps if step.startswith("SCAN") and "(subquery" not in step]
    assert scans == ["SCAN task"], "the newest tasks, so many of them, for a host's history"
    sorts = [statement for statement, steps in plans.items() if any("ORDER BY" in step for step in steps)]
    assert all("FROM execution" in statement for statement in sorts), "only the hosts of a task are sorted, or those of a page"
    one_state = next(steps for statement, steps in plans.items() if "execution.state = ?" in statement)
    assert one_state == ["SEARCH execution USING INDEX sqlite_autoindex_execution_1 (task_id=? AND host>?)"]
    attempts = [step for steps in plans.values() for step in steps if "output" in step]
    assert all("attempt_id=?" in step for step in attempts)


def test_the_inventory_is_read_anew_when_it_changes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "ssh-config").write_text("Host gate1\n")
    fleet = Fleet(CurrentInventory(tmp_path, tmp_path / "ssh-config"), store.access)

    def names(search: str = "") -> list[str]:
        return [member.name for member in fleet.members(search, time.time())]

    assert names() == ["gate1", "localhost"]
    (tmp_path / "hosts.yaml").write_text(
        "hosts:\n  web[1-3]: {groups: [web], tags: {dc: ams}}\n  db10: {address: 10.0.0.7, user: root}\n  db9:\n"
    )
    assert names() == ["db9", "db10", "gate1", "localhost", "web1", "web2", "web3"]
    assert names("@web 2") == ["web2"]
    assert names("dc=am") == ["web1", "web2", "web3"]
    assert names("10.0.0") == ["db10"]
    (found,) = fleet.members("db10", time.time())
    assert (found.reach, found.state) == ("ssh root@10.0.0.7", "no agent")
    (tmp_path / "hosts.yaml").write_text("hosts: [nonsense")
    assert names() == ["db9", "db10", "gate1", "localhost", "web1", "web2", "web3"], "what it said before still counts"
    assert "hosts.yaml" in fleet.trouble()
    (tmp_path / "hosts.yaml").write_text("hosts: {web1: }\n")
    assert (names(), fleet.trouble()) == (["gate1", "localhost", "web1"], "")
