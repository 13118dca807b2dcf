"""New credentials for agents, without a moment in which one could not speak.

    people want it       rotating
    the agent makes one, keeps both, and tells its SHA-256       next_digest: from here on the agent may use it
    the agent has used it once       digest = next_digest, generation + 1; the old one is shut out

No credential travels: its agent makes it. Each step may be repeated, and whoever dies between two of them does it again.
"""

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from models.states import AgentState
from models.tables import AgentRow

_ONE = update(AgentRow).where(AgentRow.id == bindparam("which"), AgentRow.state == AgentState.APPROVED)
_WANT = (
    update(AgentRow)
    .where(AgentRow.name.in_(bindparam("names", expanding=True)), AgentRow.state == AgentState.APPROVED)
    .values(rotating=True, changed=bindparam("now"))
)
_OFFER = _ONE.where(AgentRow.rotating).values(next_digest=bindparam("offered"), changed=bindparam("now"))
_PROMOTE = _ONE.where(AgentRow.next_digest == bindparam("used")).values(
    digest=AgentRow.next_digest,
    former_digest=AgentRow.digest,
    next_digest=None,
    rotating=False,
    generation=AgentRow.generation + 1,
    changed=bindparam("now"),
)


def want(connection: Connection, now: int, names: Sequence[str]) -> None:
    """Have the approved agents of these names take new credentials."""
    connection.execute(_WANT, {"names": list(names), "now": now})


def offer(connection: Connection, now: int, agent: uuid.UUID, digest: str) -> bool:
    """Let an agent use the credential with this digest; False when none is wanted of it."""
    return connection.execute(_OFFER, {"which": str(agent), "offered": digest, "now": now}).rowcount == 1


def promote(connection: Connection, now: int, agent: uuid.UUID, digest: str) -> bool:
    """An agent has used its next credential: from now on it is the only one. False when another hub has noted that before."""
    return connection.execute(_PROMOTE, {"which": str(agent), "used": digest, "now": now}).rowcount == 1
