"""The worker's socket by itself; what a whole worker does with it stands in test_worker.py."""

import asyncio
import json
import uuid
from pathlib import Path

from flows.doorbell import Doorbell


async def _ask(path: Path, request: object) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, object] = json.loads(await asyncio.wait_for(reader.readline(), 5))
        return answer
    finally:
        writer.close()


async def test_a_watch_rings_and_is_answered_at_the_end(tmp_path: Path) -> None:
    rung, run = asyncio.Event(), uuid.uuid4()
    doorbell = Doorbell({}, rung.set)
    async with doorbell.open(tmp_path / "socket"):
        asking = asyncio.create_task(_ask(tmp_path / "socket", {"watch": str(run)}))
        await asyncio.wait_for(rung.wait(), 5)
        doorbell.tell(run, {"state": "COMPLETED"})
        assert await asking == {"state": "COMPLETED"}


async def test_a_run_that_begins_once_more_is_not_answered_with_its_earlier_end(tmp_path: Path) -> None:
    rung, run = asyncio.Event(), uuid.uuid4()
    doorbell = Doorbell({}, rung.set)
    async with doorbell.open(tmp_path / "socket"):
        doorbell.tell(run, {"state": "FAILED"})
        doorbell.forget(run)
        asking = asyncio.create_task(_ask(tmp_path / "socket", {"watch": str(run)}))
        await asyncio.wait_for(rung.wait(), 5)
        doorbell.tell(run, {"state": "COMPLETED"})
        assert await asking == {"state": "COMPLETED"}


async def test_a_ping_does_not_ring(tmp_path: Path) -> None:
    rung = asyncio.Event()
    async with Doorbell({"worker": "me"}, rung.set).open(tmp_path / "socket"):
        assert await _ask(tmp_path / "socket", {"ping": True}) == {"worker": "me"}
    assert not rung.is_set()


async def test_only_so_many_ends_are_remembered(tmp_path: Path) -> None:
    rung, first = asyncio.Event(), uuid.uuid4()
    doorbell = Doorbell({}, rung.set)
    async with doorbell.open(tmp_path / "socket"):
        doorbell.tell(first, {"state": "COMPLETED"})
        for _ in range(1000):
            doorbell.tell(uuid.uuid4(), {})
        asking = asyncio.create_task(_ask(tmp_path / "socket", {"watch": str(first)}))
        await asyncio.wait_for(rung.wait(), 5)  # it is treated as one that may still come
        asking.cancel()
        await asyncio.wait([asking])
