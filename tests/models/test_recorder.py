import asyncio
from collections.abc import AsyncIterator

import pytest

from models import database
from models.access import Access
from models.errors import TransitionError
from models.recorder import Recorder
from models.records import Outcome
from models.states import ExecutionState
from models.store import Store
from models.values import OnDisconnect, Stream
from tests.models.test_store import OWNER, spec

SUCCEEDED = Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)


@pytest.fixture
async def recorder(store: Store) -> AsyncIterator[Recorder]:
    recorder = Recorder(store, output_limit=1000)
    yield recorder
    await recorder.aclose()


def _output(store: Store, attempt_id: int) -> bytes:
    return b"".join(piece.data for piece in store.output(attempt_id))


async def test_what_has_been_awaited_is_committed(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    recording = recorder.record(claim)
    await recording.starting()
    assert store.executions(task.id)[0].state is ExecutionState.RUNNING
    recording.output(Stream.STDOUT, b"hi\n")
    assert await recording.finish(SUCCEEDED)
    assert store.executions(task.id)[0].state is ExecutionState.SUCCEEDED
    assert _output(store, claim.attempt_id) == b"hi\n"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # which database does not matter, and it takes a second
async def test_output_of_a_quiet_command_is_stored_within_about_a_second(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    recording = recorder.record(claim)
    await recording.starting()
    recording.output(Stream.STDOUT, b"step 1\n")
    async with asyncio.timeout(5):
        while not _output(store, claim.attempt_id):
            await asyncio.sleep(0.02)
    assert _output(store, claim.attempt_id) == b"step 1\n"


async def test_a_start_that_is_not_ours_any_more_is_refused(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    store.claim(task.id, "machine:home:two")
    recording = recorder.record(claim)
    with pytest.raises(TransitionError):
        await recording.starting()
    assert not await recording.finish(SUCCEEDED)


async def test_a_cancel_in_the_commit_of_the_start_still_ends_the_execution(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    recording = recorder.record(claim)
    starting = asyncio.ensure_future(recording.starting())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await recording.finish(Outcome(state=ExecutionState.CANCELED, error="canceled"))
    assert store.executions(task.id)[0].state is ExecutionState.CANCELED
    assert store.recount(task.id) == store.task(task.id).counts


async def test_a_thousand_runs_at_once_lose_nothing(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec(*(f"h{number}" for number in range(1000))), OWNER)
    claims = store.claim(task.id, OWNER)

    async def run(number: int) -> None:
        recording = recorder.record(claims[number])
        await recording.starting()
        recording.output(Stream.STDOUT, str(number).encode())
        assert await recording.finish(SUCCEEDED)

    await asyncio.gather(*(run(number) for number in range(1000)))
    assert store.task(task.id).counts[ExecutionState.SUCCEEDED] == 1000
    assert store.recount(task.id) == store.task(task.id).counts
    assert [_output(store, claim.attempt_id) for claim in claims] == [str(number).encode() for number in range(1000)]


async def test_a_database_locked_by_somebody_else_only_delays(store: Store, recorder: Recorder, access: Access) -> None:
    task = store.open_task(spec("web1"), OWNER)
    (claim,) = store.claim(task.id, OWNER)
    other = await asyncio.to_thread(database.writer(access.engine).connect)
    await asyncio.to_thread(other.begin)
    starting = asyncio.ensure_future(recorder.record(claim).starting())
    await asyncio.sleep(0.5)
    assert not starting.done(), "somebody else writes"
    other.close()
    await starting


async def test_what_was_masked_is_read_again_from_its_start_and_what_was_not_goes_on(store: Store, recorder: Recorder) -> None:
    task = store.open_task(spec("masked", "clear", on_disconnect=OnDisconnect.DETACH), OWNER)
    claims = store.claim(task.id, OWNER)
    for claim, printed in zip(claims, (b"it is hunter2!\n", b"it is me\n"), strict=True):
        recording = recorder.record(claim, ["hunter2"])
        await recording.starting()
        recording.output(Stream.STDOUT, printed)
    await recorder.aclose()
    assert [_output(store, claim.attempt_id) for claim in claims] == [b"it is ***!\n", b"it is me\n"]
    taken = store.claim(task.id, "machine:home:next")
    assert [(claim.offsets or {})[Stream.STDOUT] for claim in taken] == [0, 9]
    assert [_output(store, claim.attempt_id) for claim in taken] == [b"", b"it is me\n"]
