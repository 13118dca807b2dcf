"""The store beside raw sqlite3 on the same tables: tasks created, a page of tasks, results recorded."""

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path

from side_by_side import Row, compare, in_turn, show

from models import database
from models.recorder import Recorder
from models.records import Outcome, TaskLine, TaskSpec
from models.states import ExecutionState
from models.store import Store
from models.values import Command, Stream

BULK = 1000
STORED = 100_000
RESULTS = 10_000
_SPEC = TaskSpec(name="true on web1", command=Command(script="true"), target="web1", hosts=("web1",))
_SUCCEEDED = Outcome(state=ExecutionState.SUCCEEDED, exit_code=0)


def _open(folder: Path, name: str) -> tuple[Store, sqlite3.Connection]:
    url = f"sqlite:///{folder / name}"
    database.upgrade(url)
    raw = sqlite3.connect(folder / name, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "cache_size=-8192"):
        raw.execute(f"PRAGMA {pragma}")
    return Store.open(url), raw


def created(folder: Path) -> Row:
    store, _ = _open(folder, "ours.db")
    other, raw = _open(folder, "raw.db")
    other.close()

    def ours() -> float:
        began = time.perf_counter()
        store.create_tasks([_SPEC] * BULK)
        return BULK / (time.perf_counter() - began)

    def theirs() -> float:
        first = (raw.execute("SELECT max(id) FROM task").fetchone()[0] or 0) + 1
        began = time.perf_counter()
        raw.execute("BEGIN IMMEDIATE")
        tasks = [(number, "true on web1", "true", "{}", b"", "web1", 1, 1, began) for number in range(first, first + BULK)]
        raw.executemany(
            "INSERT INTO task (id, name, script, env, stdin, target, hosts, pending, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", tasks
        )
        raw.executemany("INSERT INTO execution (task_id, host) VALUES (?, 'web1')", [(number,) for number in range(first, first + BULK)])
        raw.execute("COMMIT")
        return BULK / (time.perf_counter() - began)

    figures = in_turn(25, ours, theirs)
    store.close()
    raw.close()
    return compare(
        "tasks created, bulk of 1,000",
        "/s",
        figures[0],
        "sqlite3 executemany",
        figures[1],
        "0.5 of it, over 32,700/s",
        lambda rate, quotient: rate > 32_700 and quotient >= 0.5,
    )


def page(folder: Path) -> Row:
    store, raw = _open(folder, "page.db")
    for _ in range(STORED // BULK):
        store.create_tasks([_SPEC] * BULK)
    query = f"SELECT {', '.join(TaskLine._fields)} FROM task ORDER BY id DESC LIMIT 10"  # noqa: S608 - names from our own class
    times = 1000

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(times):
            store.tasks(10)
        return (time.perf_counter() - began) / times * 1e6

    def theirs() -> float:
        began = time.perf_counter()
        for _ in range(times):
            raw.execute(query).fetchall()
        return (time.perf_counter() - began) / times * 1e6

    figures = in_turn(9, ours, theirs)
    store.close()
    raw.close()
    return compare(
        "a page of 10 of 100,000 tasks",
        "us",
        figures[0],
        "sqlite3",
        figures[1],
        "under 106 us, 5 times at most",
        lambda micros, quotient: micros < 106 and quotient <= 5,
    )


def recorded(folder: Path) -> Row:
    store, raw = _open(folder, "results.db")

    def ours() -> float:
        task = store.open_task(
            TaskSpec(name="n", command=Command(script="true"), target="t", hosts=tuple(f"h{number}" for number in range(RESULTS))), "bench"
        )
        claims = store.claim(task.id, "bench")

        async def record() -> float:
            recorder = Recorder(store, output_limit=1 << 20)
            recordings = [recorder.record(claim) for claim in claims]
            await asyncio.gather(*(recording.starting() for recording in recordings))
            for recording in recordings:
                recording.output(Stream.STDOUT, b"hi\n")
            began = time.perf_counter()
            await asyncio.gather(*(recording.finish(_SUCCEEDED) for recording in recordings))
            rate = RESULTS / (time.perf_counter() - began)
            await recorder.aclose()
            return rate

        return asyncio.run(record())

    def theirs() -> float:
        last = raw.execute("SELECT max(id) FROM execution").fetchone()[0]
        rows = range(last - RESULTS + 1, last + 1)
        began = time.perf_counter()
        for start in range(0, RESULTS, 500):
            group = [(number,) for number in rows[start : start + 500]]
            raw.execute("BEGIN IMMEDIATE")
            raw.executemany("UPDATE execution SET state = 'succeeded', exit_code = 0, finished_at = 1 WHERE id = ?", group)
            raw.executemany("UPDATE attempt SET state = 'succeeded', exit_code = 0, finished_at = 1 WHERE id = ?", group)
            raw.execute("COMMIT")
        return RESULTS / (time.perf_counter() - began)

    figures = in_turn(5, ours, theirs)
    store.close()
    raw.close()
    return compare(
        "results recorded", "/s", figures[0], "sqlite3, groups of 500", figures[1], "over 10,000/s", lambda rate, _: rate > 10_000
    )


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        return [created(Path(name)), page(Path(name)), recorded(Path(name))]


if __name__ == "__main__":
    show(measure())
