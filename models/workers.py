"""The lives of workers: one row each, by which everybody else knows that it lives.

One row a worker, and not a time on each execution: a renewal is one UPDATE however many hosts run, and the tasks and
attempts name their owner already. A worker whose lease has run out is dead once somebody else has said so here
(`take_over`); until then it may go on. Every write of a worker asks in its own transaction whether that has happened.

Clocks: a lease is written and judged by the database's clock alone, so that machines may disagree about the time. For
SQLite that is the clock of the one machine that has the file. A step of that clock by more than a lease ends living
workers, which is safe and costs their runs; the workers themselves measure with a clock that never steps (lease.py).
"""

from sqlalchemy import ColumnElement, Connection, Float, and_, bindparam, delete, false, func, insert, or_, select, update

from models.clock import Clock
from models.errors import LeaseLostError
from models.tables import WorkerRow


def _is_living(row: type[WorkerRow]) -> ColumnElement[bool]:
    return and_(row.ended_at.is_(None), row.lease_until >= Clock())


def grant(connection: Connection, owner: str, seconds: float) -> None:
    """Begin a worker's life."""
    connection.execute(insert(WorkerRow).values(owner=owner, lease_until=Clock() + seconds))


_RENEW = (
    update(WorkerRow)
    .where(WorkerRow.owner == bindparam("worker"), WorkerRow.ended_at.is_(None))
    .values(lease_until=Clock() + bindparam("seconds", type_=Float))
)
_LIVES = select(WorkerRow.owner).where(WorkerRow.owner == bindparam("worker"), WorkerRow.ended_at.is_(None))


def renew(connection: Connection, owner: str, seconds: float) -> bool:
    """Extend a worker's life; False when it has been ended. A lease that ran out and that nobody has ended goes on."""
    return connection.execute(_RENEW, {"worker": owner, "seconds": seconds}).rowcount == 1


def check(connection: Connection, owner: str) -> None:
    """Raise `LeaseLostError` when somebody has ended this worker; beside this transaction nobody can."""
    if connection.execute(_LIVES, {"worker": owner}).first() is None:
        raise LeaseLostError(owner)


def leave(connection: Connection, owner: str) -> None:
    """End a worker's own life; what it left open is there for others to end."""
    connection.execute(update(WorkerRow).where(WorkerRow.owner == owner).values(ended_at=func.coalesce(WorkerRow.ended_at, Clock())))


def living(connection: Connection) -> set[str]:
    return set(connection.scalars(select(WorkerRow.owner).where(_is_living(WorkerRow))))


def dead(connection: Connection) -> list[str]:
    """The workers that have ended, or whose lease has run out, and of whom something may be left."""
    return list(connection.scalars(select(WorkerRow.owner).where(~_is_living(WorkerRow)).order_by(WorkerRow.owner)))


def take_over(connection: Connection, owner: str, reaper: str, *, certainly: bool) -> bool:
    """End a dead worker for good, and make `reaper` the one who ends what it left; False when it lives, or another living one does.

    `certainly`: its death is known otherwise than by its lease.
    """
    others = select(WorkerRow.owner).where(_is_living(WorkerRow), WorkerRow.owner != reaper)
    statement = (
        update(WorkerRow)
        .where(WorkerRow.owner == owner, or_(~_is_living(WorkerRow), ~false() if certainly else false()))
        .where(or_(WorkerRow.reaper.is_(None), WorkerRow.reaper.not_in(others)))
        .values(ended_at=func.coalesce(WorkerRow.ended_at, Clock()), reaper=reaper)
    )
    return connection.execute(statement).rowcount == 1


def forget(connection: Connection, owner: str) -> None:
    """Remove a worker of whom nothing is left; it stays shut out."""
    connection.execute(delete(WorkerRow).where(WorkerRow.owner == owner))
