"""What a browser is shown where there is no page. Programs are told in a line of text, those of the API in its own way."""

from http import HTTPStatus

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from hub.api.problems import PREFIX, on_http
from hub.pages.answers import render

_SHOWN = {
    HTTPStatus.NOT_FOUND: ("Not found", "There is no such page."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("That is no page", "Something is sent there, and nothing shown."),
}


def add_missing(app: FastAPI) -> None:
    """Have an application answer so."""
    for status in _SHOWN:
        app.add_exception_handler(status, _show)


async def _show(request: Request, error: Exception) -> Response:
    plain = await on_http(request, error)
    if request.url.path.startswith(PREFIX) or "text/html" not in request.headers.get("accept", ""):
        return plain
    title, reason = _SHOWN[HTTPStatus(plain.status_code)]
    page = render("problem.html", plain.status_code, visit=None, title=title, reason=reason)
    if allowed := plain.headers.get("allow"):
        page.headers["Allow"] = allowed
    return page
