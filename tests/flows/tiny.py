"""Flows that tests deploy on a real worker."""

import asyncio
import sys
import threading
import time
from pathlib import Path

from prefect import flow, get_run_logger, task


@flow(flow_run_name="quick {text}")
async def quick(text: str = "hi") -> str:
    get_run_logger().info("said %s", text)
    return text


@flow
async def wait_for(file: str, seconds: float = 60) -> None:
    """Runs until `file` exists. Writes down when it was cancelled."""
    deadline = time.monotonic() + seconds
    Path(file + ".started").touch()
    try:
        while not Path(file).exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)  # as a flow does that ends its remote commands
        Path(file + ".cancelled").touch()
        raise


@task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@flow
async def shards(number: int = 4, seconds: float = 0.2) -> None:
    await asyncio.gather(*(nap(seconds) for _ in range(number)))


@flow
async def tell_threads(file: str) -> None:
    Path(file).write_text(" ".join(thread.name for thread in threading.enumerate()))


@flow
async def alone(folder: str, seconds: float = 0.5) -> None:
    """Fails where another run of it is under way."""
    lock = Path(folder) / "lock"
    lock.touch(exist_ok=False)
    await asyncio.sleep(seconds)
    lock.unlink()


@flow
async def fails() -> None:
    raise ValueError("the disk is on fire")


@flow
async def exits() -> None:
    sys.exit(3)


@flow
async def exits_in_a_task() -> None:
    async def leave() -> None:
        sys.exit(4)

    await asyncio.gather(asyncio.ensure_future(leave()), asyncio.sleep(1))


@flow
async def stubborn(file: str) -> None:
    """Does not heed a cancel."""
    Path(file + ".started").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


@flow
def not_async() -> None: ...


not_a_flow = 42
