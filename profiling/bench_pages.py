"""How soon the hub's pages are open in a browser: a task on 10,000 hosts with 1 GB of output, and a fleet of 10,000 agents.

The database is built with bulk inserts, in a folder that goes with it. Seconds are from the click to the end of `load`, as Chromium
itself tells them; those of the first look count too, when the hub has just started.
"""

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from playwright.sync_api import Page
from side_by_side import Row, show

from models import database
from models.access import Access
from models.tokens import Role, Tokens
from tests.browser.chromium import run_chromium
from tests.servers.hub import TESTS, Hub

HOSTS = 10_000
OUTPUT = 100_000  # bytes of each host, which makes 1 GB
ROUNDS = 9
GOAL = 1.0  # seconds

_STATES = {7: "failed", 8: "unreachable", 9: "lost"}  # of every hundredth host; the others have succeeded
_TASK = "INSERT INTO task (id, name, script, env, stdin, target, hosts, {states}, state, created_at, started_at, finished_at) VALUES (1, ?, 'true', '{{}}', x'', '@all', ?, {numbers}, 'failed', 1, 1, 2)"  # noqa: E501
_EXECUTION = "INSERT INTO execution (id, task_id, host, state, epoch, attempt_id, exit_code, error, started_at, finished_at) VALUES (?, 1, ?, ?, 1, ?, ?, ?, ?, 2)"  # noqa: E501
_ATTEMPT = "INSERT INTO attempt (id, execution_id, number, uuid, owner, epoch, state, queued_at) VALUES (?, ?, 1, ?, 'bench', 1, ?, 1)"
_OUTPUT = "INSERT INTO output (attempt_id, stream, \"offset\", data) VALUES (?, 'stdout', ?, ?)"
_AGENT = "INSERT INTO agent (id, name, machine, state, digest, joined_at, seen_at, version, facts, telemetry, changed) VALUES (?, ?, ?, 'approved', 'x', 1, ?, '1', ?, ?, 1)"  # noqa: E501


def _build(home: Path) -> None:
    home.mkdir()
    (home / "hosts.yaml").write_text(f"hosts:\n  node[00001-{HOSTS:05}]: {{executor: agent, groups: [all], tags: {{dc: ams}}}}\n")
    database.upgrade(f"sqlite:///{home / 'fleetflow.db'}")
    raw = sqlite3.connect(home / "fleetflow.db", isolation_level=None)
    raw.execute("PRAGMA synchronous=OFF")
    raw.execute("BEGIN IMMEDIATE")
    states = [_STATES.get(number % 100, "succeeded") for number in range(HOSTS)]
    counters = {"pending": 0} | {state: states.count(state) for state in set(states)}
    names, numbers = ", ".join(counters), ", ".join(map(str, counters.values()))
    raw.execute(_TASK.format(states=names, numbers=numbers), ("true on @all", HOSTS))
    raw.executemany(_EXECUTION, (_execution(number, state) for number, state in enumerate(states, 1)))
    raw.executemany(_ATTEMPT, ((number, number, str(uuid.uuid4()), state) for number, state in enumerate(states, 1)))
    raw.executemany(_OUTPUT, _output())
    told = json.dumps({"os": "Debian GNU/Linux 12", "os_id": "debian", "kernel": "6.1.0", "addresses": ["10.0.0.7"], "python": "3.11.2"})
    raw.executemany(
        _AGENT, ((str(uuid.uuid4()), f"node{number:05}", str(number), time.time(), told, told) for number in range(1, HOSTS + 1))
    )
    raw.execute("COMMIT")
    raw.close()


def _execution(number: int, state: str) -> tuple[object, ...]:
    code = {"failed": 1, "succeeded": 0}.get(state)
    error = {"unreachable": "connection refused", "lost": "connection lost"}.get(state)
    return number, f"node{number:05}", state, number, code, error, None if state == "unreachable" else 1


def _output() -> Iterator[tuple[int, int, bytes]]:
    for number in range(1, HOSTS + 1):
        half = b"".join(b"%05d %06d all is well here\n" % (number, line) for line in range(OUTPUT // 60))
        half += b"." * (OUTPUT // 2 - len(half))
        yield number, 0, half
        yield number, OUTPUT // 2, half


def _opened(page: Page, url: str) -> float:
    page.goto(url)
    milliseconds: float = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    return milliseconds / 1000


def _row(what: str, seconds: float) -> Row:
    return Row(what, "s", seconds, "-", GOAL, seconds / GOAL, f"under {GOAL:g} s", seconds < GOAL)


def measure(rounds: int = ROUNDS) -> list[Row]:
    pages = {
        "task page": "/tasks/1",
        "task page, hosts that succeeded, from the middle": "/tasks/1?state=succeeded&after=succeeded:node05000",
        "output of one host, its last screen": "/tasks/1/hosts/node05007",
        "fleet page": "/fleet",
        "fleet page, searched by fact and name": "/fleet?q=os_id=debian+99",
        "page of one host": "/fleet/node05007",
    }
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        _build(home)
        access = Access.open(f"sqlite:///{home / 'fleetflow.db'}")
        token = Tokens(access).create("bench", Role.VIEWER, TESTS)
        access.close()
        hub = Hub(home)
        hub.start()
        try:
            with run_chromium() as page:
                page.context.add_cookies([{"name": "fleetflow", "value": token, "url": hub.url}])
                first = {what: _opened(page, hub.url + path) for what, path in pages.items()}
                later = {what: median(_opened(page, hub.url + path) for _ in range(rounds)) for what, path in pages.items()}
        finally:
            hub.close()
    shown = f"{HOSTS:,} hosts, {HOSTS * OUTPUT / 1e9:g} GB: "
    return [row for what in pages for row in (_row(f"{shown}{what}, first look", first[what]), _row("  the same, later ones", later[what]))]


if __name__ == "__main__":
    show(measure())
