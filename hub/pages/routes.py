"""Where the pages are."""

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.pages import answers
from hub.pages.entrance import login, logout, show_login
from hub.pages.fleet import show_fleet, show_host
from hub.pages.missing import add_missing
from hub.pages.output import show_output
from hub.pages.tasks import home, show_task, show_tasks
from hub.pages.visits import page
from models.fleet import Fleet
from models.views import Views

_THREADS = 4  # pages at the same time: however many people look, agents get their share of processor and database


async def _static(request: Request) -> Response:
    return answers.static(request.path_params["name"])


ROUTES = (
    Route("/", page(home)),
    Route("/login", show_login),
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/tasks", page(show_tasks)),
    Route("/tasks/{number:int}", page(show_task)),
    Route("/tasks/{number:int}/hosts/{host:path}", page(show_output)),
    Route("/fleet", page(show_fleet, whole_fleet=True)),
    Route("/fleet/{host:path}", page(show_host, whole_fleet=True)),
    Route("/static/{name}", _static),
)


def add_pages(app: FastAPI) -> None:
    """Add the pages to an application that has its inventory and its database."""
    access = app.state.access
    app.state.page_threads = CapacityLimiter(_THREADS)
    app.state.views = Views(access)
    app.state.fleet = Fleet(app.state.inventory, access)
    app.router.routes.extend(ROUTES)
    add_missing(app)
