"""The audit trail: who changed what, when and from where, and what was refused; each entry seals all before it.

A change and its entry are written by one transaction. The digest of an entry covers its own words and the digest before it, so that
nobody can change or remove one without all that follow. Who also wants to know that nothing was cut off the end keeps the newest
digest elsewhere, and gives it to `fleetflow audit verify`.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from models.access import Access
from models.errors import AuditError
from models.trail import AuditRow

_WORDS = 500  # characters of what an entry says of one thing
_CHUNK = 1000  # entries that are read at a time
NOTHING = "0" * 64  # the digest before the first entry


class Result(StrEnum):
    """What became of what somebody wanted."""

    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and from where: `alice`, `command line`; `token ci`, `10.0.0.7`."""

    who: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry as stored. `at` is in seconds since the epoch."""

    id: int
    at: float
    who: str
    source: str
    action: str  # such as `agent.approve`
    object: str  # such as `web07`
    result: str
    detail: str
    digest: str

    def seal(self, before: str) -> str:
        """The digest that this entry must have."""
        words = asdict(self)
        del words["digest"]
        return hashlib.sha256((before + json.dumps(words, sort_keys=True)).encode()).hexdigest()


def write(connection: Connection, actor: Actor, action: str, name: object, *, result: Result = Result.DONE, detail: str = "") -> None:
    """Add an entry, in the transaction of the change that it tells of. It is alone, so that entries follow each other."""
    last = connection.execute(_LAST).one_or_none()
    entry = Entry(
        id=last.id + 1 if last else 1,
        at=time.time(),
        who=_short(actor.who),
        source=_short(actor.source),
        action=action,
        object=_short(str(name)),
        result=result.value,
        detail=_short(detail),
        digest="",
    )
    connection.execute(insert(AuditRow), asdict(entry) | {"digest": entry.seal(last.digest if last else NOTHING)})


class Audit:
    """The audit trail of one database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def refuse(self, actor: Actor, action: str, name: object, why: str) -> None:
        """Note something that somebody wanted, and that was not done."""
        with self._access.writing() as connection:
            write(connection, actor, action, name, result=Result.REFUSED, detail=why)

    def entries(self, limit: int = 100, before: int | None = None) -> list[Entry]:
        """The newest entries first, older than the number `before`."""
        query = _ENTRIES.order_by(AuditRow.id.desc()).limit(limit)
        with self._access.reading() as connection:
            return [_entry(row) for row in connection.execute(query if before is None else query.where(AuditRow.id < before))]

    def verify(self, known: str | None = None) -> tuple[int, str]:
        """Check the whole trail: how many entries there are, and the newest digest. Raises `AuditError`.

        `known` is a digest that the trail had before; without it in the trail, something was cut off its end.
        """
        count, before, found = 0, NOTHING, known in {None, NOTHING}
        with self._access.reading() as connection:
            while entries := self._after(connection, count):
                for entry in entries:
                    if entry.id != count + 1:
                        raise AuditError(f"entry {count + 1} is missing")
                    if entry.digest != entry.seal(before):
                        raise AuditError(f"entry {entry.id} is not what was written")
                    count, before = entry.id, entry.digest
                    found = found or before == known
        if not found:
            raise AuditError("the trail has no entry with the digest that it should have: it was cut off, or written anew")
        return count, before

    def _after(self, connection: Connection, number: int) -> Sequence[Entry]:
        rows = connection.execute(_ENTRIES.where(AuditRow.id > number).order_by(AuditRow.id).limit(_CHUNK))
        return [_entry(row) for row in rows]


_LAST = select(AuditRow.id, AuditRow.digest).order_by(AuditRow.id.desc()).limit(1)
_ENTRIES = select(*AuditRow.__table__.c)


def _entry(row: Row[Any]) -> Entry:
    return Entry(**{field.name: getattr(row, field.name) for field in fields(Entry)})


def _short(text: str) -> str:
    """Without what a terminal would obey, or a database not take."""
    return "".join(character if character.isprintable() else " " for character in text[:_WORDS])
