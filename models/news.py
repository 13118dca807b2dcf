"""What happened at a hub and Prefect is to be told: a hub does not speak to Prefect, so it is written here and told by a worker.

A row belongs to the transaction that made it true. Of all workers one tells at a time, so that what came first is told first; when it
dies another goes on, and says again what may have been said: whoever hears it knows it by its UUID.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from models import workers
from models.access import Access
from models.clock import Clock
from models.tables import NewsRow

_KEPT = 7 * 86400.0  # seconds, where no worker comes to tell it


class Kind(StrEnum):
    """What happened."""

    OFFLINE = "offline"  # agents went
    ONLINE = "online"  # agents came
    CORRECTED = "corrected"  # tasks that have lost hosts were told their ends late


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """One thing to tell. `at` is in seconds since the epoch; `about` are names of agents or numbers of tasks."""

    id: int
    uuid: uuid.UUID
    at: float
    kind: Kind
    about: Sequence[str]


def write(connection: Connection, kind: Kind, about: Iterable[str]) -> None:
    """Have it told that this happened to these; nothing where there are none."""
    if found := list(about):
        connection.execute(insert(NewsRow).values(uuid=str(uuid.uuid4()), at=Clock(), kind=kind, about=found))


def sweep(connection: Connection) -> None:
    """Remove what is news no more."""
    connection.execute(_SWEEP)


class Newsroom:
    """The news of one database, as one worker takes them."""

    def __init__(self, access: Access, owner: str) -> None:
        self._access = access
        self._owner = owner

    def take(self, most: int) -> list[News]:
        """The oldest news, which are ours to tell until we are done with them; none while another living worker tells some."""
        with self._access.reading() as connection:
            if connection.execute(_ANY).first() is None:
                return []
        with self._access.writing() as connection:
            tellers = set(connection.scalars(_TELLERS)) - {self._owner}
            if tellers & workers.living(connection):
                return []
            found = connection.execute(_OLDEST, {"most": most}).all()
            connection.execute(_CLAIM, {"ids": [row.id for row in found], "teller": self._owner})
        return [News(id=row.id, uuid=uuid.UUID(row.uuid), at=row.at, kind=Kind(row.kind), about=row.about) for row in found]

    def done(self, news: News) -> None:
        """It was told."""
        with self._access.writing() as connection:
            connection.execute(_DONE, {"which": news.id})


_ANY = select(NewsRow.id).limit(1)
_TELLERS = select(NewsRow.owner).where(NewsRow.owner.is_not(None)).distinct()
_OLDEST = select(*NewsRow.__table__.c).order_by(NewsRow.id).limit(bindparam("most"))
_CLAIM = update(NewsRow).where(NewsRow.id.in_(bindparam("ids", expanding=True))).values(owner=bindparam("teller"))
_DONE = delete(NewsRow).where(NewsRow.id == bindparam("which"))
_SWEEP = delete(NewsRow).where(NewsRow.at < Clock() - _KEPT)
