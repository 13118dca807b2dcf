"""Puts the API into the hub's application."""

from fastapi import Depends, FastAPI

from hub.api import executions, fleet, live, overview, tasks
from hub.api.asking import Desk
from hub.api.guard import Guard
from hub.api.live import Streams
from hub.api.problems import RESPONSES, add_handlers
from hub.api.roles import authorize
from models.access import Access
from models.audit import Audit
from models.listing import Listing
from models.requests import Requests
from models.settings import Settings
from models.store import Store

_ROOMS = (tasks, live, executions, fleet, overview)


def add_api(app: FastAPI, settings: Settings, access: Access) -> None:
    """Serve the API from this database."""
    state = app.state
    state.store, state.listing, state.requests, state.audit = Store(access), Listing(access), Requests(access), Audit(access)
    state.desk, state.streams = Desk(settings, state.inventory), Streams()
    for room in _ROOMS:
        app.include_router(room.router, dependencies=[Depends(authorize)], responses=RESPONSES)
    add_handlers(app)
    app.add_middleware(Guard)
