"""The tokens with which programs and people use the REST API and the pages: each has a role, and may have a scope.

A token is known here by its SHA-256 alone.
"""

import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, select, update

from models import audit
from models.access import Access
from models.agents import digest
from models.audit import Actor
from models.errors import NotFoundError, UsageError
from models.names import GROUP
from models.records import Task, TaskLine
from models.trail import ApiTokenRow

_MARK = "fleetflow_"  # by which people and scanners see what it is


class Role(StrEnum):
    """What a token lets its holder do; each may do what those before it may."""

    VIEWER = "viewer"  # see everything
    OPERATOR = "operator"  # run, cancel and retry tasks
    ADMIN = "admin"  # decide about agents and tokens

    def may(self, needed: "Role") -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True)
class Scope:
    """What alone a token may run, and where: for webhooks. It sees nothing but its own tasks."""

    target: str
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token as stored. Times are seconds since the epoch."""

    id: int
    name: str
    role: Role
    scope: Scope | None
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None

    @property
    def holder(self) -> str:
        """What tasks and the audit trail call whoever has it."""
        return f"token {self.name}"

    def sees(self, task: Task | TaskLine) -> bool:
        """Whether a task is its business: with a scope, its own alone, and none of a former token of its name."""
        return self.scope is None or (task.created_by == self.holder and task.created_at >= self.created_at)

    def is_good(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Tokens:
    """All API tokens of one database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def create(self, name: str, role: Role, by: Actor, *, seconds: float | None = None, scope: Scope | None = None) -> str:
        """A new token, which is stored nowhere in clear; raises `UsageError` for a name that is wrong or taken."""
        if not GROUP.fullmatch(name):
            raise UsageError(f"token {name[:40]!r}: letters, digits, '.', '_', ':', '+' and '-' may stand in its name")
        if scope is not None and role is not Role.OPERATOR:
            raise UsageError(f"token {name}: a scope says what a token may run, so its role is operator")
        token = _MARK + secrets.token_hex(32)
        now = time.time()
        values = {
            "digest": digest(token),
            "name": name,
            "role": role,
            "target": scope and scope.target,
            "command": scope and scope.command,
            "created_at": now,
            "created_by": by.who,
            "expires_at": None if seconds is None else now + seconds,
        }
        with self._access.writing() as connection:
            living = connection.scalar(select(ApiTokenRow.id).where(ApiTokenRow.name == name, ApiTokenRow.revoked_at.is_(None)))
            if living is not None:
                raise UsageError(f"token {name}: there is one of that name; `fleetflow token revoke {name}` ends it")
            connection.execute(insert(ApiTokenRow), values)
            audit.write(
                connection,
                by,
                "token.create",
                name,
                detail=f"role {role}" + (f", only {scope.command!r} on {scope.target}" if scope else ""),
            )
        return token

    def revoke(self, name: str, by: Actor) -> None:
        """End a token at once; raises `NotFoundError`."""
        end = update(ApiTokenRow).where(ApiTokenRow.name == name, ApiTokenRow.revoked_at.is_(None)).values(revoked_at=time.time())
        with self._access.writing() as connection:
            if not connection.execute(end).rowcount:
                raise NotFoundError("token", name)
            audit.write(connection, by, "token.revoke", name)

    def find(self, token: str) -> Token | None:
        """The good token that this is, or None."""
        if not token.startswith(_MARK):
            return None
        with self._access.reading() as connection:
            row = connection.execute(_TOKENS.where(ApiTokenRow.digest == digest(token))).one_or_none()
        found = _token(row) if row else None
        return found if found and found.is_good(time.time()) else None

    def all(self) -> list[Token]:
        """Every token there ever was, by name and age."""
        with self._access.reading() as connection:
            return [_token(row) for row in connection.execute(_TOKENS.order_by(ApiTokenRow.name, ApiTokenRow.id))]


_TOKENS = select(*ApiTokenRow.__table__.c)


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        scope=None if row.target is None else Scope(row.target, row.command),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
