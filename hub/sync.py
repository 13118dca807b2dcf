"""`POST /agent/v1/sync`: what an agent reports is stored, and it is told what is to be done, or its poll waits for that."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass, field, replace

from starlette.requests import Request
from starlette.responses import Response

from hub.bodies import BodyError, Reply, header, read, refusal, refuse
from hub.hub import Hub
from hub.lines import Line, Whose
from hub.proof import Proof, prove
from hub.wire import Answer, Sync, VersionError, WireError, read_credential, read_sync
from hub.writer import CrowdedError
from models.agents import Agent, digest
from models.copies import Copy
from models.errors import UnavailableError
from models.states import AgentState

log = logging.getLogger(__name__)

PATH = "/agent/v1/sync"
_HELD = 1000  # agents that wait for their approval, of which each may have a call held back until it is there
_LONGEST = 30.0  # seconds that such a call is held
_PENDING = 60.0, 300.0  # seconds after which one asks again whose call is not held, by how many wait
_DOUBTED = 2.0  # seconds after which a machine asks again that may be a copy
_WORD = 2.0  # seconds that a report of a held command waits for the word to go, which takes a few milliseconds on a quiet machine
_BUSY = 2.0  # seconds after which an agent tries again what could not be stored
_UNKNOWN = refusal(401, "this agent is not known here, or was revoked")


async def sync(request: Request) -> Response:
    """Take a report, and answer it: of somebody who may not be known here, or whose request is no plain one; others come to `answer`."""
    hub: Hub = request.app.state.hub
    authorization = header(request, b"authorization")
    try:
        caller = recognise(hub, authorization)
        if caller is None:  # another hub, or `agent install`, may just have stored who it is
            await hub.look()
            caller = recognise(hub, authorization)
    except UnavailableError as error:
        log.warning("an agent has to try again: %r", error)
        return refuse(503, "the hub cannot read its database now", retry=_BUSY)
    if caller is None:
        return _UNKNOWN.response
    patience = _patience(hub, request)
    await _hear_decision(caller.line, patience)  # nothing that an agent says is read before
    if gate := _gate(hub, caller.line, patience):
        return gate.response
    try:
        body = await read(request)
    except BodyError as error:
        return refuse(error.status, error.reason)
    return (await answer(hub, caller, body, patience)).response


@dataclass(slots=True)
class Caller:
    """Who calls, as the credential says."""

    line: Line
    proof: Proof
    shown: str = field(repr=False)


def recognise(hub: Hub, authorization: str) -> Caller | None:
    """Who it is that brings this header, if it is anybody whom this hub knows by now."""
    try:
        agent, credential = read_credential(authorization)
    except WireError:
        return None
    line = hub.lines.find(agent)
    if line is None:
        return None
    shown = digest(credential)
    proof = prove(line.agent, hub.lines.copies(agent), shown)
    return Caller(line, proof, shown) if proof else None


async def answer(hub: Hub, caller: Caller, body: bytes, patience: float = 0.0) -> Reply:
    """Take what an agent reports, and answer it, now or when there is something to say. `patience`: seconds, of a copy for its approval."""
    line = caller.line
    if gate := _gate(hub, line):
        return gate
    began = time.monotonic()
    try:
        said = read_sync(line.agent.id, body)
    except WireError as error:
        return refusal(426 if isinstance(error, VersionError) else 400, str(error))
    del body  # not to be kept as long as its answer is held
    try:
        if other := await _place(hub, caller, said, patience):
            return other
        told = await _answer(hub, line, said)
    except (CrowdedError, UnavailableError) as error:
        log.warning("agent %s has to try again: %r", line.agent.name, error)
        return refusal(503, "the hub cannot store this now", retry=_BUSY)
    reply = _gate(hub, line) or _reply(told, is_last=hub.is_crowded() and not said.is_poll)
    if not told.held:
        hub.metrics.sync.observe(time.monotonic() - began - told.waited)
    return reply


async def _place(hub: Hub, caller: Caller, said: Sync, patience: float) -> Reply | None:
    """The answer to what is not the agent itself, or not yet."""
    line = caller.line
    if caller.proof is Proof.NEXT:
        await asyncio.to_thread(hub.agents.promote, line.agent.id, caller.shown)
        line.renewed(caller.shown)
    match line.judge(said, time.monotonic(), is_former=caller.proof is Proof.FORMER, held=hub.lines.copies(line.agent.id)):
        case Whose.OWN:
            return None if said.generation == line.agent.generation else refusal(409, "another machine has this agent's identity")
        case Whose.LATE:
            return refusal(401, "this credential has been replaced", retry=0)
        case Whose.DOUBT:
            return refusal(503, "another machine was this agent just now", retry=_DOUBTED)
        case Whose.OTHER:
            log.warning("agent %s: a former session speaks, so there are two of it", line.agent.name)
            return refusal(409, "another process has this agent's identity")
        case Whose.COPY:
            return await _hold(hub, caller, said, patience)


async def _hold(hub: Hub, caller: Caller, said: Sync, patience: float) -> Reply:
    """What a copy is told, which is an agent of its own from here on."""
    agent = caller.line.agent
    if said.report.known is None:  # it has not said which machine it is
        return _reply(Answer(tell=True))
    copy = Copy(original=agent.id, machine=said.machine or agent.machine, boot=said.boot, version=said.version, digest=caller.shown)
    known = _find(hub, copy)
    if known is None or known.boot != copy.boot or (agent.digest == copy.digest and not agent.rotating):
        if not await asyncio.to_thread(hub.agents.hold, copy):
            return refusal(409, f"too many copies of {agent.name} wait already")
        await hub.look()
        known = _find(hub, copy)
        log.warning("another machine has the identity of agent %s, and waits as %s", agent.name, known.name if known else "?")
    line = hub.lines.find(known.id) if known else None
    if line is None:
        return refusal(503, "the hub cannot store this now", retry=_BUSY)
    await _hear_decision(line, patience)
    known = line.agent
    if known.state is AgentState.APPROVED:
        return _reply(Answer(identity={"agent": str(known.id), "name": known.name, "generation": known.generation}))
    what = f"this is a copy of {agent.name}, known here as {known.name}, which"
    if known.state is AgentState.PENDING:
        return _refuse_pending(hub, f"{what} waits for its approval: `fleetflow agent approve`", patience)
    return refusal(403, f"{what} was {known.state}", state=known.state)


def _find(hub: Hub, copy: Copy) -> Agent | None:
    return next((one for one in hub.lines.copies(copy.original) if (one.machine, one.digest) == (copy.machine, copy.digest)), None)


def _reply(answer: Answer, *, is_last: bool = False) -> Reply:
    """An answer; the last one of its connection where descriptors run short."""
    return Reply(200, answer.encode(), is_last)


def _patience(hub: Hub, request: Request) -> float:
    """Seconds for which an agent that waits for its approval lets us hold its call (RFC 7240)."""
    asked = re.fullmatch(r"wait=(\d{1,4})", header(request, b"prefer"))
    return min(float(asked[1]), _LONGEST) if asked and hub.lines.pending <= _HELD and not hub.is_closing else 0.0


async def _hear_decision(line: Line, patience: float) -> None:
    """What is decided about an agent that waits it hears at once."""
    if patience and line.agent.state is AgentState.PENDING:
        await line.hold_poll(patience)


def _gate(hub: Hub, line: Line, patience: float = 0.0) -> Reply | None:
    """The answer to an agent that may not speak, or not now."""
    match line.agent.state:
        case AgentState.APPROVED:
            return None
        case AgentState.PENDING:
            return _refuse_pending(hub, "this agent waits for its approval: `fleetflow agent approve`", patience)
        case AgentState.REJECTED | AgentState.REVOKED as state:
            return refusal(403, f"this agent was {state}", state=state)


def _refuse_pending(hub: Hub, reason: str, patience: float) -> Reply:
    """Have it call again: at once if it was held, else in a minute, or more where many wait."""
    least, most = _PENDING
    pause = _BUSY if hub.is_closing else 0.0 if patience else min(most, max(least, hub.lines.pending / 20))
    return refusal(403, reason, state=AgentState.PENDING, retry=pause)


async def _answer(hub: Hub, line: Line, said: Sync) -> Answer:
    began = time.monotonic()
    if line.is_stranger(said) and said.report.known is None:
        return Answer(tell=True)  # nothing it says is taken before it is certain who it is
    line.hear(said, began)
    if said.is_poll:
        line.poll.replace()  # its connection may be gone, and with it what would be told there
    answer, is_wanted = Answer(), True
    if line.agent.rotating:
        await _renew(hub, line, said, answer)
    if not said.report.is_empty:
        receipt = await hub.writer.put(said.report)
        line.heed(said.report, receipt)
        answer.noted, answer.ask, answer.stored = receipt.noted, receipt.ask, receipt.stored
        answer.acks += receipt.forget
        if receipt.waits and not (answer.rotate or answer.taken or hub.is_closing or hub.is_crowded() or line.has_due(began)):
            waits = time.monotonic()
            is_wanted = await line.report.wait(_WORD)
            answer.waited = time.monotonic() - waits
    elif said.wait and not (answer.rotate or answer.taken or hub.is_closing or line.has_due(began)):
        is_wanted = await line.hold_poll(said.wait)
        answer.held = time.monotonic() - began
        if line.agent.rotating:
            await _renew(hub, line, said, answer)
    if is_wanted:
        await hub.fill(line, answer, is_poll=said.is_poll)
    return answer


async def _renew(hub: Hub, line: Line, said: Sync, answer: Answer) -> None:
    """Have the agent make a new credential, or let it use the one that it has made."""
    agent = line.agent
    if said.offered is None:
        answer.rotate = True
    elif agent.next_digest == said.offered or await asyncio.to_thread(hub.agents.offer, agent.id, said.offered):
        line.agent = replace(line.agent, next_digest=said.offered)
        answer.taken = said.offered
