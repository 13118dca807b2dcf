"""What those ask who watch over the hub: `/healthz`, `/readyz` and `/metrics`. The first two are open, and say nothing secret."""

import json
import logging

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.auth import identify
from hub.bodies import refuse
from hub.hub import Hub
from hub.shared import Shared
from models import database, figures
from models.access import Access
from models.address import is_private
from models.errors import FleetflowError, UnavailableError
from models.figures import Figures
from models.settings import Settings

log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds that the database has to answer
_PROBED = 1.0  # seconds between two probes of it
_COUNTED = 5.0  # seconds between two counts in it
_BEHIND = 5.0  # seconds without a look into it


class Watching:
    """The three endpoints of one hub."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._is_open = is_private(settings)
        self._probe = Shared(lambda: database.probe(settings.database), _PROBED)
        self._figures = Shared(lambda: _count(settings, access), _COUNTED)

    @property
    def routes(self) -> list[Route]:
        paths = {"/healthz": self.healthz, "/readyz": self.readyz, "/metrics": self.metrics}
        return [Route(path, endpoint, methods=["GET"]) for path, endpoint in paths.items()]

    async def healthz(self, request: Request) -> Response:
        """The process serves; nothing else is asked."""
        del request
        return Response('{"serves": true}', media_type="application/json")

    async def readyz(self, request: Request) -> Response:
        """Whether agents and programs should come to this hub."""
        hub: Hub = request.app.state.hub
        reasons = ["the hub is ending"] if hub.is_closing else []
        if hub.behind > _BEHIND:
            reasons.append(f"the hub has not heard of workers for {hub.behind:.0f} s")
        try:
            await self._probe.get(_PATIENCE)
        except TimeoutError:
            reasons.append(f"the database has not answered within {_PATIENCE:g} s")
        except FleetflowError:
            reasons.append("the database cannot be used")
        return Response(json.dumps({"ready": not reasons, "reasons": reasons}), 503 if reasons else 200, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """The metrics, for a viewer's token where more than this machine reaches the hub."""
        if not self._is_open and (refusal := await _gate(request)):
            return refusal
        hub: Hub = request.app.state.hub
        try:
            found = await self._figures.get(_PATIENCE)
        except (TimeoutError, FleetflowError) as error:
            log.warning("metrics without the database: %r", error)
            found = None
        return Response(hub.metrics.expose(hub.lines.polls, found), media_type=CONTENT_TYPE_LATEST)


def _count(settings: Settings, access: Access) -> Figures:
    database.probe(settings.database)
    return figures.read(access)


async def _gate(request: Request) -> Response | None:
    """The answer to who may not see everything."""
    try:
        token = await identify(request)
    except UnavailableError:
        return refuse(503, "the hub's database does not answer")
    if token is None:
        refusal = refuse(401, "the metrics are for those who have a token: `fleetflow token create NAME`")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    return None if token.scope is None else refuse(403, "this token sees its own tasks alone")
