"""Errors as the API tells them: problem+json (RFC 9457), one line that says what to do."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models import errors

log = logging.getLogger(__name__)

PREFIX = "/api/"
_NO_PLACE = {"body", "one", "many"}
_BUSY = {"Retry-After": "2"}
# The first that fits counts.
_STATUS: tuple[tuple[type[errors.FleetflowError], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.AgentStateError, 409),
    (errors.RequestKeyError, 409),
    (errors.NothingToRetryError, 409),
    (errors.NoHostsError, 422),
    (errors.UsageError, 422),
)


class Problem(BaseModel):
    """An error, as RFC 9457 has it; `detail` is one line that says what to do."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[str] = []


_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "What went wrong, and what to do", "content": _PROBLEM},
    422: {"description": "What was asked for is wrong", "content": _PROBLEM},
}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> Response:
    """The answer that tells of an error."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def add_handlers(app: FastAPI) -> None:
    """Have every error of the API told so."""
    app.add_exception_handler(errors.FleetflowError, _on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)


async def _on_error(request: Request, error: Exception) -> Response:
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return problem(status, str(error))
    if isinstance(error, errors.UnavailableError):
        log.warning("%s %s: %s", request.method, request.url.path, error)
        return problem(503, "the hub's database does not answer; try again", _BUSY)
    return await _on_bug(request, error)


async def on_http(request: Request, error: Exception) -> Response:
    """What a program is told of an error that is nobody's own: that there is nothing there, or nothing to be done so."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered; for mypy
    if request.url.path.startswith(PREFIX):
        return problem(error.status_code, error.detail, error.headers)
    return Response(f"{error.detail}\n", error.status_code, error.headers, "text/plain")


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as registered; for mypy
    found = [_invalid(one) for one in error.errors()[:20]]
    return problem(422, "; ".join(found[:3]), errors=found)


def _invalid(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return f"the body is not JSON: {one['ctx']['error']}"
    place = ".".join(str(part) for part in one["loc"] if part not in _NO_PLACE)[:100]
    return f"{place}: {one['msg']}" if place else str(one["msg"])


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "the hub has met an error of its own; its log tells more")
