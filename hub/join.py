"""`POST /agent/v1/join`: a host that knows a join token becomes an agent."""

import asyncio
import json
import logging

from starlette.requests import Request
from starlette.responses import Response

from hub.bodies import BodyError, read, refuse
from hub.hub import Hub
from hub.wire import VERSION, VersionError, WireError, read_join
from models.errors import JoinError, NameTakenError, UnavailableError
from models.names import HOST
from models.states import AgentState

log = logging.getLogger(__name__)


async def join(request: Request) -> Response:
    """Answer with the agent's id and credential, which it is never told again."""
    hub: Hub = request.app.state.hub
    try:
        said = read_join(await read(request))
    except BodyError as error:
        return refuse(error.status, error.reason)
    except WireError as error:
        return refuse(426 if isinstance(error, VersionError) else 400, str(error))
    if not HOST.fullmatch(said.name):
        return refuse(400, "the name is not a host name; letters, digits, '.', '_' and '-' may stand there")
    try:
        joined = await asyncio.to_thread(
            hub.agents.join, said.token, name=said.name, machine=said.machine, version=said.version, facts=said.facts
        )
    except NameTakenError as error:
        return refuse(409, str(error))
    except JoinError as error:
        return refuse(403, str(error))
    except UnavailableError as error:
        log.warning("an agent cannot join: %s", error)
        return refuse(503, "the hub's database does not answer", retry=5)
    await hub.learn(joined.id)
    if joined.state is AgentState.APPROVED:
        hub.enlister.add(said.name)
    log.info("agent %s (%s) has joined, and is %s", said.name, joined.id, joined.state)
    answer = {
        "v": VERSION,
        "agent": str(joined.id),
        "credential": joined.credential,
        "state": joined.state,
        "generation": joined.generation,
    }
    return Response(json.dumps(answer), media_type="application/json")
