"""Who looks at a page, what of it is theirs to see, and what they asked for."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from hub.auth import identify
from hub.pages.answers import go, href, render
from models.errors import NotFoundError, UnavailableError, UsageError
from models.fleet import Fleet
from models.records import Task, TaskLine
from models.tokens import Token
from models.views import Views

Kind = TypeVar("Kind", bound=StrEnum)
_LARGEST = 2**62  # that a number may be: the database takes no larger ones
_LONGEST = 500  # characters of what somebody looks for


@dataclass(frozen=True, slots=True)
class Visit:
    """A request with a good token."""

    request: Request
    token: Token
    now: float

    @property
    def views(self) -> Views:
        views: Views = self.request.app.state.views
        return views

    @property
    def fleet(self) -> Fleet:
        fleet: Fleet = self.request.app.state.fleet
        return fleet

    @property
    def is_scoped(self) -> bool:
        """Whether these eyes see tasks of their own alone."""
        return self.token.scope is not None

    def line(self, number: int) -> TaskLine:
        """The row of a task; raises `NotFoundError`, also where it is not theirs to see."""
        return self._allowed(number, self.views.line)

    def task(self, number: int) -> Task:
        """The same, for a task in full."""
        return self._allowed(number, self.views.task)

    def _allowed(self, number: int, find: Callable[[int], "Shown"]) -> "Shown":
        if number > _LARGEST:
            raise NotFoundError("task", number)
        found = find(number)
        if not self.token.sees(found):
            raise NotFoundError("task", number)
        return found

    def word(self, name: str) -> str:
        """A text of the query; raises `UsageError` when it is too long."""
        found = self.request.query_params.get(name, "").strip()
        if len(found) > _LONGEST:
            raise UsageError(f"{name}: at most {_LONGEST} characters")
        return found

    def number(self, name: str) -> int | None:
        """A number of the query; raises `UsageError`."""
        found = self.word(name)
        if not found:
            return None
        if not (found.isascii() and found.isdecimal()) or int(found) > _LARGEST:
            raise UsageError(f"{name}: give a number, such as 0")
        return int(found)

    def one_of(self, name: str, kinds: type[Kind]) -> Kind | None:
        """One of a few words in the query; raises `UsageError`."""
        found = self.word(name)
        if found and found not in set(kinds):
            raise UsageError(f"{name}: give one of {', '.join(kinds)}")
        return kinds(found) if found else None

    def render(self, template: str, status: int = 200, **values: object) -> Response:
        return render(template, status, visit=self, **values)


Shown = TypeVar("Shown", Task, TaskLine)
Endpoint = Callable[[Request], Awaitable[Response]]


def page(work: Callable[[Visit], Response], *, whole_fleet: bool = False) -> Endpoint:
    """An endpoint that does this, in a thread, for whoever has a token; with `whole_fleet`, not for tokens with a scope."""

    async def endpoint(request: Request) -> Response:
        try:
            token = await identify(request)
            if token is None:
                return go(href("login", next=_asked(request)))
            visit = Visit(request, token, time.time())
            if whole_fleet and token.scope:
                return visit.render("problem.html", 403, title="Not for this token", reason="It has a scope, and sees its own tasks alone.")
            return await to_thread.run_sync(_carefully, work, visit, limiter=request.app.state.page_threads)
        except UnavailableError as error:
            return render("problem.html", 503, visit=None, title="The hub cannot say", reason=str(error))

    return endpoint


def _asked(request: Request) -> str:
    """The path as it came: a host's name may hold anything, escaped."""
    path: str = request.scope["raw_path"].decode("latin-1")
    return "" if path == "/" else path + (f"?{request.url.query}" if request.url.query else "")


def _carefully(work: Callable[[Visit], Response], visit: Visit) -> Response:
    try:
        return work(visit)
    except NotFoundError as error:
        return visit.render("problem.html", 404, title="Not found", reason=f"There is no {error.kind} {error.name}.")
    except UsageError as error:
        return visit.render("problem.html", 400, title="That is no address here", reason=str(error))
