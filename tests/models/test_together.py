"""What holds when many write at once, each with connections of its own, as workers, hubs and the API do."""

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from models.access import Access
from models.audit import Audit
from models.recorder import Recorder
from models.records import Outcome, Started
from models.requests import Requests
from models.states import ExecutionState
from models.store import Store
from models.values import Stream
from tests.models.conftest import Raw
from tests.models.test_store import OWNER, finish, spec, start
from tests.models.test_tokens import ALICE

MANY = 8
SUCCEEDED = Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)


@pytest.fixture
def stores(url: str) -> Iterator[list[Store]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Store.open(url, host_limit=3))) for _ in range(MANY)]


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What all return that begin at the same moment; an error of one is raised."""
    found: list[Any] = [None] * len(works)
    begin = threading.Barrier(len(works))

    def run(number: int) -> None:
        begin.wait()
        try:
            found[number] = works[number]()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def test_new_tasks_have_numbers_of_their_own_and_a_flow_run_has_one(stores: list[Store]) -> None:
    flow_run_id = uuid.uuid4()

    def work(store: Store) -> tuple[list[int], int]:
        made = [number for _ in range(5) for number in store.create_tasks([spec("a", "b"), spec("c")])]
        return made, store.open_task(spec("a", flow_run_id=flow_run_id), OWNER).id

    found = at_once([lambda store=store: work(store) for store in stores])  # type: ignore[misc]  # mypy cannot tell
    numbers = [number for made, _ in found for number in made]
    assert len(set(numbers)) == len(numbers) == MANY * 10
    assert len({one for _, one in found}) == 1
    assert len(stores[0].tasks(1000)) == MANY * 10 + 1


def test_of_many_claims_each_execution_has_one_that_can_start_it(stores: list[Store]) -> None:
    task = stores[0].open_task(spec(*(f"h{number}" for number in range(20))), OWNER)
    claims = at_once([lambda store=store: store.claim(task.id, OWNER) for store in stores])  # type: ignore[misc]
    started = at_once(
        [lambda store=store, mine=mine: [start(store, claim) for claim in mine] for store, mine in zip(stores, claims, strict=True)]
    )  # type: ignore[misc]
    assert [sum(host) for host in zip(*started, strict=True)] == [1] * 20
    assert stores[0].recount(task.id) == stores[0].task(task.id).counts
    assert {execution.attempt for execution in stores[0].executions(task.id)} == {MANY}


def test_the_limit_of_a_host_is_exact_over_all_workers(stores: list[Store]) -> None:
    claims = [(store, store.claim(store.open_task(spec("one", f"own{n}"), OWNER).id, OWNER)) for n, store in enumerate(stores)]
    started = at_once([lambda store=store, mine=mine: store.write([Started(claim, 1.0) for claim in mine]) for store, mine in claims])  # type: ignore[misc]
    assert sum(one for one, _ in started) == 3
    assert all(own for _, own in started)
    (one_that_runs, *_) = [(store, mine[0]) for (store, mine), (began, _) in zip(claims, started, strict=True) if began]
    assert finish(*one_that_runs)
    again = at_once(
        [
            lambda store=store, claim=mine[0]: start(store, claim)
            for (store, mine), (began, _) in zip(claims, started, strict=True)
            if not began
        ]  # type: ignore[misc]
    )
    assert sum(again) == 1


def test_recorders_lose_nothing_and_count_right_on_one_task(stores: list[Store]) -> None:
    task = stores[0].open_task(spec(*(f"h{number}" for number in range(MANY * 25))), OWNER)
    claims = stores[0].claim(task.id, OWNER)

    async def work(store: Store, number: int) -> None:
        recorder = Recorder(store, output_limit=1000)

        async def run(index: int) -> None:
            recording = recorder.record(claims[index])
            await recording.starting()
            recording.output(Stream.STDOUT, str(index).encode())
            assert await recording.finish(SUCCEEDED)

        await asyncio.gather(*(run(index) for index in range(number, len(claims), MANY)))
        await recorder.aclose()

    at_once([lambda store=store, n=n: asyncio.run(work(store, n)) for n, store in enumerate(stores)])  # type: ignore[misc]
    assert stores[0].task(task.id).counts[ExecutionState.SUCCEEDED] == MANY * 25
    assert stores[0].recount(task.id) == stores[0].task(task.id).counts
    printed = [b"".join(piece.data for piece in stores[0].output(claim.attempt_id)) for claim in claims]
    assert printed == [str(index).encode() for index in range(len(claims))]


def test_a_request_that_comes_many_times_at_once_makes_its_tasks_once(stores: list[Store]) -> None:
    asked = [replace(spec(host), request_key=f"key/{host}") for host in ("a", "b")]
    found = at_once([lambda store=store: [task.id for task in Requests(store.access).create(asked, ALICE)] for store in stores])  # type: ignore[misc]
    assert found == [[1, 2]] * MANY
    assert Audit(stores[0].access).verify()[0] == 1


def test_of_two_programs_that_upgrade_at_once_one_does(old_url: str, raw: Raw) -> None:
    program = [sys.executable, "-c", "import sys; from models import database; database.upgrade(sys.argv[1])", old_url]
    upgrades = [subprocess.Popen(program, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(done.communicate()[1], done.returncode) for done in upgrades] == [(b"", 0)] * 2
    assert len(raw(old_url, "SELECT * FROM stack")) == len(raw(old_url, "SELECT * FROM alembic_version")) == 1
    Access.open(old_url).close()
