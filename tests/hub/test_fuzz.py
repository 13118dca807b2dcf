"""The REST API under requests that nobody would write: schemathesis makes them from the API's own description."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.audit import Audit
from models.tokens import Role
from tests.hub.api import Api
from tests.servers.hub import Hub

PROGRAM = Path(sys.executable).parent / "schemathesis"


@pytest.fixture(scope="module")
def api(hub: Hub) -> Iterator[Api]:
    made = Api(hub)
    made("POST", "/tasks", json={"target": "localhost", "command": "true"}).raise_for_status()
    yield made
    made.close()


def state(hub: Hub) -> list[str]:
    """All of the database but for what was refused, which is noted there, and the bus's count, which the hub's own sweep moves."""
    with sqlite3.connect(f"file:{hub.home / 'fleetflow.db'}?mode=ro", uri=True) as raw:
        return [line for line in raw.iterdump() if '"audit"' not in line and '"stack"' not in line]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.VIEWER])
def test_no_request_breaks_the_hub_and_a_viewer_changes_nothing(api: Api, role: Role, tmp_path: Path) -> None:
    before = state(api.hub)
    done = subprocess.run(
        [
            PROGRAM, "run", f"{api.hub.url}/api/v1/openapi.json", "--header", f"Authorization: Bearer {api.clear[role]}",
            "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "5", "--seed", "1", "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--exclude-path-regex", "events$|live$", "--request-timeout", "20", "--no-color", "--generation-database", "none",
        ],
        capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:] + api.hub.log[-3000:]
    assert api.hub.process is not None
    assert api.hub.process.poll() is None
    assert "Traceback" not in api.hub.log
    Audit(api.store.access).verify()
    if role is Role.VIEWER:
        assert state(api.hub) == before
