"""Copies: machines that bring the identity of an agent, as those do that were cloned from its disk.

A copy is held as an agent of its own, pending, under a name that is free. Approved, it is told who it is; until it has a credential of
its own it is known by its machine, and by the one that it came with.
"""

import time
import uuid
from dataclasses import dataclass, field
from itertools import count

from sqlalchemy import Connection, bindparam, func, insert, select, update

from models.states import AgentState
from models.tables import LIVING, AgentRow

_MOST = 100  # copies of one agent that wait at the same time


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A machine that said it is the agent `original`."""

    original: uuid.UUID
    machine: str
    boot: str
    version: str
    digest: str = field(repr=False)  # of the credential that it brought


def hold(connection: Connection, now: int, copy: Copy) -> bool:
    """Note a copy, and have the agent take a new credential where two know its own. False: too many of its copies wait."""
    values = {"original": str(copy.original)}
    connection.execute(_RENEW, values | {"shown": copy.digest, "now": now})
    known = connection.scalar(_KNOWN, values | {"its": copy.machine, "shown": copy.digest})
    if known is not None:
        connection.execute(_SEEN, {"which": known, "said": copy.boot, "now": now})
        return True
    if connection.execute(_WAITING, values).scalar_one() >= _MOST:
        return False
    name = _free(connection, connection.execute(_NAME, values).scalar_one())
    row: dict[str, object] = {"id": str(uuid.uuid4()), "name": name, "state": AgentState.PENDING, "copy_of": str(copy.original)}
    row |= {"machine": copy.machine, "boot": copy.boot, "version": copy.version, "digest": copy.digest}
    connection.execute(insert(AgentRow), row | {"joined_at": time.time(), "changed": now})
    return True


def _free(connection: Connection, name: str) -> str:
    """`web01-2`, or the next one that no living agent has."""
    for number in count(2):
        found = f"{name[:240]}-{number}"
        if connection.scalar(_IS_TAKEN, {"name": found}) == 0:
            return found
    raise AssertionError


_RENEW = (
    update(AgentRow)
    .where(AgentRow.id == bindparam("original"), AgentRow.digest == bindparam("shown"), AgentRow.state == AgentState.APPROVED)
    .where(~AgentRow.rotating)
    .values(rotating=True, changed=bindparam("now"))
)
_OF_ONE = select(AgentRow.id).where(AgentRow.copy_of == bindparam("original"))
# One that has a credential of its own is nobody's copy any more.
_KNOWN = (
    _OF_ONE.where(AgentRow.machine == bindparam("its"), AgentRow.digest == bindparam("shown"), AgentRow.generation == 1)
    .order_by(AgentRow.joined_at.desc())
    .limit(1)
)
_SEEN = update(AgentRow).where(AgentRow.id == bindparam("which")).values(boot=bindparam("said"), changed=bindparam("now"))
_WAITING = select(func.count()).select_from(_OF_ONE.where(AgentRow.state == AgentState.PENDING).subquery())
_NAME = select(AgentRow.name).where(AgentRow.id == bindparam("original"))
_IS_TAKEN = select(func.count()).where(AgentRow.name == bindparam("name"), LIVING)
