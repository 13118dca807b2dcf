"""Who asks: a program by the token in its Authorization header, a browser by the same token in its cookie."""

import logging

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from models.audit import Actor
from models.tokens import Token, Tokens

log = logging.getLogger(__name__)

COOKIE = "fleetflow"
_SAFE = frozenset({"GET", "HEAD"})


async def identify(request: Request) -> Token | None:
    """The good token that a request brings; a cookie counts for looking alone, since another site's page may have sent it."""
    tokens: Tokens = request.app.state.tokens
    text = _text(request)
    return await run_in_threadpool(tokens.find, text) if text else None


def _text(request: Request) -> str:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return request.cookies.get(COOKIE, "") if request.method in _SAFE else ""


def actor(request: Request, token: Token) -> Actor:
    """Who the audit trail says did it."""
    return Actor(token.holder, request.client.host if request.client else "nobody")
