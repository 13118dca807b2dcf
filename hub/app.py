"""The hub as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

from hub.api.router import add_api
from hub.hub import Hub
from hub.join import join
from hub.pages.routes import add_pages
from hub.sync import PATH, sync
from hub.watching import Watching
from models.access import Access
from models.current import CurrentInventory
from models.settings import Settings
from models.tokens import Tokens

CACHE = 1024  # KiB of a connection to SQLite: there are a dozen of them


def create_app(settings: Settings, *, cache_kib: int = CACHE) -> FastAPI:
    """An application that is a hub for as long as its lifespan lasts; raises `UnavailableError` where the database cannot be used.

    Agents come through plain routes: ten thousand of them at once need no more than that.
    """
    access = Access.open(settings.database, cache_kib=cache_kib)
    app = FastAPI(title="fleetflow", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json", lifespan=_lifespan)
    app.state.settings, app.state.access, app.state.tokens = settings, access, Tokens(access)
    app.state.inventory = CurrentInventory(settings.home, settings.ssh_config.expanduser())
    add_api(app, settings, access)
    app.router.routes.append(Route("/agent/v1/join", join, methods=["POST"]))
    app.router.routes.append(Route(PATH, sync, methods=["POST"]))
    app.router.routes += Watching(settings, access).routes
    add_pages(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Hub]]:
    hub = app.state.hub = Hub(app.state.settings, app.state.access)
    async with hub.running():
        yield {"hub": hub}
    app.state.access.close()
