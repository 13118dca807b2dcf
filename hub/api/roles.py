"""Which role each route needs: the one table, which a test walks. A route that does not stand here is nobody's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NoReturn

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from hub.auth import actor
from models.audit import Actor, Audit
from models.errors import UsageError
from models.tokens import Role, Scope, Token

log = logging.getLogger(__name__)

BASE = "/api/v1"
_TASKS = f"{BASE}/tasks"

ROLES: Mapping[tuple[str, str], Role] = {
    ("GET", _TASKS): Role.VIEWER,
    ("POST", _TASKS): Role.OPERATOR,
    ("GET", f"{_TASKS}/{{task}}"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/progress"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/events"): Role.VIEWER,
    ("POST", f"{_TASKS}/{{task}}/cancel"): Role.OPERATOR,
    ("POST", f"{_TASKS}/{{task}}/retry"): Role.OPERATOR,
    ("GET", f"{_TASKS}/{{task}}/executions"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/executions/{{host}}"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/executions/{{host}}/attempts"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/executions/{{host}}/output"): Role.VIEWER,
    ("GET", f"{_TASKS}/{{task}}/executions/{{host}}/output/live"): Role.VIEWER,
    ("GET", f"{BASE}/hosts"): Role.VIEWER,
    ("GET", f"{BASE}/hosts/{{host}}"): Role.VIEWER,
    ("GET", f"{BASE}/agents"): Role.VIEWER,
    ("POST", f"{BASE}/agents/{{name}}/approve"): Role.ADMIN,
    ("POST", f"{BASE}/agents/{{name}}/reject"): Role.ADMIN,
    ("POST", f"{BASE}/agents/{{name}}/revoke"): Role.ADMIN,
    ("POST", f"{BASE}/agents/tokens"): Role.ADMIN,
    ("GET", f"{BASE}/statistics"): Role.VIEWER,
    ("GET", f"{BASE}/audit"): Role.ADMIN,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    token: Token
    actor: Actor

    @property
    def scope(self) -> Scope | None:
        return self.token.scope


def authorize(request: Request) -> Caller:
    """Who asks, when its role lets it; raises `HTTPException`. A refused change is in the audit trail."""
    token: Token = request.state.token
    caller = Caller(token, actor(request, token))
    path = request.scope["route"].path
    needed = ROLES.get((request.method, path))
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):  # a filter that is spelled wrong would let everything through
        there = f"; there is {', '.join(sorted(known))}" if known else ""
        raise UsageError(f"unknown parameter {unknown[0][:60]!r}{there}")
    if needed is None:
        log.error("no role is known for %s %s", request.method, path)
        raise HTTPException(403, "nobody may do that")
    if not token.role.may(needed):
        refuse(request, caller, f"needs the role {needed}, and this token has {token.role}")
    if caller.scope and not path.startswith(_TASKS):
        refuse(request, caller, "this token is for its own tasks alone")
    return caller


def refuse(request: Request, caller: Caller, why: str) -> NoReturn:
    """Note what was refused, and raise the answer that says so."""
    if request.method != "GET":
        audit: Audit = request.app.state.audit
        audit.refuse(caller.actor, f"{request.method} {request.scope['route'].path}", request.url.path, why)
    raise HTTPException(403, why)


Known = Annotated[Caller, Depends(authorize)]
