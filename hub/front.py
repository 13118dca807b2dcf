"""The hub's front door: what agents say goes straight to where it is answered, and everything else to FastAPI."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from hub.sync import PATH, sync


class Front:
    """An ASGI application. FastAPI's layers would cost an agent's request more than all that the hub does for it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            scope["app"] = self._app
            response = await sync(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
