"""Reads requests with a bound on their size and on the time they take, and answers in JSON."""

import asyncio
import json

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hub.wire import BODY_LIMIT

_PATIENCE = 30.0  # seconds that a sender has for a body


class BodyError(Exception):
    """A body that is too large, or comes too slowly; `status` is the answer's."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


async def read(request: Request) -> bytes:
    """The whole body; raises `BodyError`."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_LIMIT:
        raise BodyError(413, f"a body has at most {BODY_LIMIT} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise BodyError(413, f"a body has at most {BODY_LIMIT} bytes")
    except (TimeoutError, ClientDisconnect):
        raise BodyError(408, "the body did not come") from None
    return bytes(body)


def refuse(status: int, reason: str, **more: object) -> Response:
    """An error, in one line."""
    return Response(json.dumps({"error": reason, **more}), status, media_type="application/json")
