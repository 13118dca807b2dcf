"""Wakes the worker when somebody has made a flow run through the API or the UI of our own server: it need not wait for its next poll."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_MAKES = re.compile(r"/deployments/[^/]+/create_flow_run(/bulk)?$")


class Ringing:
    """An ASGI app around another one, that calls `ring` after each request that may have made a flow run."""

    def __init__(self, app: App, ring: Callable[[], None]) -> None:
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)
        if scope["type"] == "http" and _MAKES.search(scope["path"]):
            self._ring()
