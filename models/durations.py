"""How long commands took: counted as they end, so that nobody who asks need read what has ended."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from models.tables import AttemptRow, DurationRow

BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, math.inf)  # seconds


@dataclass(frozen=True, slots=True)
class Durations:
    """Of the commands of one executor that ended in one state."""

    counts: Sequence[int]  # for each of `BOUNDS`: how many took as long at most
    seconds: float  # of all together


def note(connection: Connection, attempts: Sequence[int]) -> None:
    """Count attempts that have ended in this transaction; one that never started took no time."""
    counts: dict[tuple[str, str, float], int] = defaultdict(int)
    sums: dict[tuple[str, str, float], float] = defaultdict(float)
    for executor, state, started_at, finished_at in connection.execute(_ENDED, {"attempts": list(attempts)}):
        seconds = max(0.0, finished_at - started_at)
        key = executor, state, BOUNDS[bisect_left(BOUNDS, seconds)]
        counts[key] += 1
        sums[key] += seconds
    if counts:
        names = [column.name for column in _KEY]
        rows = [dict(zip(names, key, strict=True)) | {"count": count, "seconds": sums[key]} for key, count in sorted(counts.items())]
        connection.execute(_ADD[connection.dialect.name], rows)


def read(connection: Connection) -> Mapping[tuple[str, str], Durations]:
    """By executor and state, what has ended since this database was made."""
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(BOUNDS))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for row in connection.execute(select(DurationRow.executor, DurationRow.state, DurationRow.le, DurationRow.count, DurationRow.seconds)):
        seconds[row.executor, row.state] += row.seconds
        counts = found[row.executor, row.state]
        for index in range(bisect_left(BOUNDS, row.le), len(BOUNDS)):
            counts[index] += row[3]
    return {key: Durations(counts, seconds[key]) for key, counts in found.items()}


_ENDED = select(AttemptRow.executor, AttemptRow.state, AttemptRow.started_at, AttemptRow.finished_at).where(
    AttemptRow.id.in_(bindparam("attempts", expanding=True)), AttemptRow.executor.is_not(None), AttemptRow.started_at.is_not(None)
)
_KEY = (DurationRow.executor, DurationRow.state, DurationRow.le)
_ADD = {}
for _dialect in (sqlite, postgresql):
    _insert = _dialect.insert(DurationRow)
    _ADD[_dialect.dialect.name] = _insert.on_conflict_do_update(
        index_elements=_KEY,
        set_={"count": DurationRow.count + _insert.excluded["count"], "seconds": DurationRow.seconds + _insert.excluded.seconds},
    )
