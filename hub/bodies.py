"""Reads requests with a bound on their size and on the time they take, and answers in JSON."""

import asyncio
import json
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from hub.wire import BODY_LIMIT

PATIENCE = 30.0  # seconds that a sender has for a body


class BodyError(Exception):
    """A body that is too large, or comes too slowly; `status` is the answer's."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


async def read(request: Request) -> bytes:
    """The whole body; raises `BodyError`."""
    length = header(request, b"content-length") or "0"
    if not length.isdecimal() or int(length) > BODY_LIMIT:
        raise BodyError(413, f"a body has at most {BODY_LIMIT} bytes")
    body: bytes = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while (message := await request.receive())["type"] == "http.request":
                body += message.get("body", b"")
                if len(body) > BODY_LIMIT:
                    raise BodyError(413, f"a body has at most {BODY_LIMIT} bytes")
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        pass
    raise BodyError(408, "the body did not come")


def header(request: Request, name: bytes) -> str:
    """A header, or nothing; `name` in small letters. Starlette would decode them all."""
    for key, value in request.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in JSON."""

    status: int
    body: bytes
    is_last: bool = False  # of its connection

    @property
    def response(self) -> Response:
        headers = {"connection": "close"} if self.is_last else None
        return Response(self.body, self.status, headers=headers, media_type="application/json")


def refusal(status: int, reason: str, **more: object) -> Reply:
    """An error, in one line."""
    return Reply(status, json.dumps({"error": reason, **more}).encode())


def refuse(status: int, reason: str, **more: object) -> Response:
    """The same, for ASGI."""
    return refusal(status, reason, **more).response
