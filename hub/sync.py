"""`POST /agent/v1/sync`: what an agent reports is stored, and it is told what is to be done, or its poll waits for that."""

import hmac
import logging
import time

from starlette.requests import Request
from starlette.responses import Response

from hub.bodies import BodyError, read, refuse
from hub.hub import Hub
from hub.lines import Line
from hub.wire import Answer, Sync, VersionError, WireError, read_credential, read_sync
from hub.writer import CrowdedError
from models.agents import digest
from models.errors import UnavailableError
from models.states import AgentState

log = logging.getLogger(__name__)

_PENDING = 5.0, 300.0  # seconds after which an agent that waits for its approval asks again, by how many wait
_BUSY = 2.0  # seconds after which an agent tries again what could not be stored


async def sync(request: Request) -> Response:
    """Take an agent's report, and answer it."""
    hub: Hub = request.app.state.hub
    line = _authenticate(hub, request)
    if line is None:
        return refuse(401, "this agent is not known here, or was revoked")
    if refusal := _gate(hub, line):
        return refusal
    try:
        body = await read(request)
        began = time.monotonic()
        said = read_sync(line.agent.id, body)
    except BodyError as error:
        return refuse(error.status, error.reason)
    except WireError as error:
        return refuse(426 if isinstance(error, VersionError) else 400, str(error))
    if said.generation != line.agent.generation:
        return refuse(409, "another machine has this agent's identity")
    if said.session in line.former:
        log.warning("agent %s: a former session speaks, so there are two of it", line.agent.name)
        return refuse(409, "another process has this agent's identity")
    try:
        answer = await _answer(hub, line, said)
    except (CrowdedError, UnavailableError) as error:
        log.warning("agent %s has to try again: %r", line.agent.name, error)
        return refuse(503, "the hub cannot store this now", retry=_BUSY)
    response = _gate(hub, line) or Response(answer.encode(), media_type="application/json")
    if not answer.held:
        hub.metrics.sync.observe(time.monotonic() - began)
    return response


def _authenticate(hub: Hub, request: Request) -> Line | None:
    try:
        agent, credential = read_credential(request.headers.get("authorization", ""))
    except WireError:
        return None
    line = hub.lines.find(agent)
    if line is None or not hmac.compare_digest(line.agent.digest, digest(credential)):
        return None
    return line


def _gate(hub: Hub, line: Line) -> Response | None:
    """The answer to an agent that may not speak, or not now."""
    match line.agent.state:
        case AgentState.APPROVED:
            return None
        case AgentState.PENDING:
            least, most = _PENDING
            return refuse(
                403, "this agent waits for its approval: `fleetflow agent approve`", retry=min(most, max(least, hub.lines.pending / 20))
            )
        case AgentState.REJECTED:
            return refuse(403, "this agent was rejected")
        case AgentState.REVOKED:
            return refuse(401, "this agent is not known here, or was revoked")


async def _answer(hub: Hub, line: Line, said: Sync) -> Answer:
    began = time.monotonic()
    line.hear(said, began)
    answer = Answer(tell=line.is_stranger(said))
    if not said.report.is_empty:
        receipt = await hub.writer.put(said.report)
        line.heed(said.report, receipt)
        answer.noted, answer.ask, answer.stored = receipt.noted, receipt.ask, receipt.stored
        answer.acks += receipt.forget
    elif not answer.tell and said.wait and not hub.is_closing and not any(True for _ in line.due(began)):
        await line.wait(said.wait)
        answer.held = time.monotonic() - began
    if not answer.tell:
        await hub.fill(line, answer)
    return answer
