"""Waits for what must come to its end, whatever else happens."""

import asyncio
from typing import Any


async def outlast(work: "asyncio.Future[Any]") -> asyncio.CancelledError | None:
    """Wait until `work` is done; returns the last cancel that came meanwhile: what becomes of it is the caller's."""
    cancel: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancel = error
    return cancel
