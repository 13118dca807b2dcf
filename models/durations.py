"""How long commands took: counted as they end, so that nobody who asks need read what has ended."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from models import upserts
from models.tables import AttemptRow, DurationRow

BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, math.inf)  # seconds


@dataclass(frozen=True, slots=True)
class Durations:
    """Of the commands of one executor that ended in one state."""

    counts: Sequence[int]  # for each of `BOUNDS`: how many took as long at most
    seconds: float  # of all together


def note(connection: Connection, attempts: Sequence[int]) -> None:
    """Count attempts that were running, and have ended in this transaction."""
    numbers: dict[tuple[str, str, float], int] = defaultdict(int)
    sums: dict[tuple[str, str, float], float] = defaultdict(float)
    for executor, state, started_at, finished_at in connection.execute(_ENDED, {"attempts": list(attempts)}):
        seconds = max(0.0, finished_at - started_at)
        key = executor, state, BOUNDS[bisect_left(BOUNDS, seconds)]
        numbers[key] += 1
        sums[key] += seconds
    if not numbers:
        return
    insert = upserts.insert(connection, DurationRow)
    added = {"number": DurationRow.number + insert.excluded.number, "seconds": DurationRow.seconds + insert.excluded.seconds}
    connection.execute(
        insert.on_conflict_do_update(index_elements=("executor", "state", "le"), set_=added),
        [
            {"executor": executor, "state": state, "le": le, "number": number, "seconds": sums[executor, state, le]}
            for (executor, state, le), number in sorted(numbers.items())
        ],
    )


def read(connection: Connection) -> Mapping[tuple[str, str], Durations]:
    """By executor and state, what has ended since this database was made."""
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(BOUNDS))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for row in connection.execute(select(*DurationRow.__table__.columns)):
        seconds[row.executor, row.state] += row.seconds
        counts = found[row.executor, row.state]
        for index in range(bisect_left(BOUNDS, row.le), len(BOUNDS)):
            counts[index] += row.number
    return {key: Durations(counts, seconds[key]) for key, counts in found.items()}


_ENDED = select(AttemptRow.executor, AttemptRow.state, AttemptRow.started_at, AttemptRow.finished_at).where(
    AttemptRow.id.in_(bindparam("attempts", expanding=True)), AttemptRow.executor.is_not(None)
)
