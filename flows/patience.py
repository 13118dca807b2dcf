"""Tells an outage of Prefect's server from a wrong call, and waits it out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from typing import TypeVar

import httpx

log = logging.getLogger(__name__)

_LONGEST_WAIT = 2.0  # seconds between tries
T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until Prefect's server answers; what it answers may still be an error."""
    wait = 0.1
    while True:
        try:
            return await call()
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("Prefect's server does not answer (%s); trying again", error or type(error).__name__)
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def is_outage(error: Exception) -> bool:
    """Whether the server is away or busy, as a proxy's HTML page says too; else the call itself is wrong."""
    if isinstance(error, httpx.HTTPStatusError):
        return is_busy(error.response)
    return isinstance(error, (httpx.TransportError, JSONDecodeError))


def is_busy(response: httpx.Response) -> bool:
    """Whether an answer says "later", or is none of Prefect's API at all, which never speaks HTML."""
    later = response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or response.status_code in {
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.TOO_MANY_REQUESTS,
    }
    return later or response.headers.get("content-type", "").startswith("text/html")
