"""The door of the API: who brings no good token gets no further, and no body is larger or slower than it may be."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.api.problems import PREFIX, problem
from hub.auth import identify
from hub.bodies import BodyError, read
from models.errors import UnavailableError


class Guard:
    """Lets requests for the API through whose token is good, with `request.state.token`, and with their whole body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            return await self._app(scope, receive, send)
        request = Request(scope, receive)
        try:
            token = await identify(request)
            if token is None:
                why = "a good token is needed: Authorization: Bearer TOKEN; `fleetflow token create` makes one"
                return await problem(401, why, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            body = await read(request)
        except UnavailableError:
            return await problem(503, "the hub's database does not answer; try again", {"Retry-After": "2"})(scope, receive, send)
        except BodyError as error:
            return await problem(error.status, error.reason, {"Connection": "close"})(scope, receive, send)
        request.state.token = token
        if body:  # whatever curl calls it: a body is JSON, and a cookie does not count for it
            scope["headers"] = [*(one for one in scope["headers"] if one[0] != b"content-type"), (b"content-type", b"application/json")]
        messages = [_whole(body)]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return await self._app(scope, replay, send)


def _whole(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}
