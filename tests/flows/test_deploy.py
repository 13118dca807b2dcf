"""The deployments that a stack makes, and those of prefect.yaml."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deploy import DEPLOYMENTS
from flows.run_command import run_command
from flows.run_script import run_script
from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker

REPOSITORY = Path(__file__).parent.parent.parent
_SAME = ("entrypoint", "description", "tags", "pull_steps", "parameter_openapi_schema", "enforce_parameter_schema", "parameters", "path")
_NAMES = ("run-command/fleet", "run-script/fleet", "reap-lost/fleet")


def _prefect(server: PrefectServer, *arguments: str) -> str:
    prefect = shutil.which("prefect", path=str(Path(sys.executable).parent))
    assert prefect is not None
    done = subprocess.run(
        [prefect, *arguments], env=server.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _fleet(server: PrefectServer, name: str = "run-command/fleet") -> dict[str, Any]:
    deployment: dict[str, Any] = server.get(f"/deployments/name/{name}")
    return deployment


def _limit(deployment: dict[str, Any]) -> tuple[int, str]:
    return deployment["global_concurrency_limit"]["limit"], deployment["concurrency_options"]["collision_strategy"]


@pytest.mark.slow
def test_prefect_deploy_makes_what_the_stack_makes(worker: Worker, prefect_server: PrefectServer) -> None:
    made = {name: _fleet(prefect_server, name) for name in _NAMES}  # by the worker
    for ours in made.values():
        assert prefect_server.api.delete(f"/deployments/{ours['id']}").is_success
    _prefect(prefect_server, "work-pool", "create", "fleetflow", "--type", "fleetflow", "--overwrite")
    _prefect(prefect_server, "--no-prompt", "deploy", "--all")
    for name, ours in made.items():
        theirs = _fleet(prefect_server, name)
        assert theirs["work_pool_name"] == "fleetflow"
        assert {field: theirs[field] for field in _SAME} == {field: ours[field] for field in _SAME}
        assert _limit(theirs) == _limit(ours)


def test_prefect_yaml_names_the_same_deployments() -> None:
    written = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    assert written["pull"] == []
    assert [
        (item["name"], item["entrypoint"], item["description"], tuple(item["tags"]), item["pull"], item.get("schedules", []))
        for item in written["deployments"]
    ] == [(made.name, made.entrypoint, made.description, made.tags, [], [{"cron": made.cron}] if made.cron else []) for made in DEPLOYMENTS]
    assert [item["concurrency_limit"] for item in written["deployments"]] == [
        {"limit": made.limit, "collision_strategy": "ENQUEUE"} for made in DEPLOYMENTS
    ]


def test_every_field_of_a_form_is_described_and_both_forms_have_the_same_ones() -> None:
    command, script = (flow.parameters.properties for flow in (run_command, run_script))
    assert [name for name, field in [*command.items(), *script.items()] if not field.get("description")] == []
    assert list(script)[:5] == ["script", "target", "interpreter", "arguments", "script_name"]
    shared = set(script) & set(command)
    assert set(command) - shared == {"command"}
    assert set(script) - shared == {"script", "interpreter", "arguments", "script_name"}
    for name in shared:
        assert command[name]["description"].split() == script[name]["description"].split()


@pytest.mark.slow
def test_a_restart_keeps_what_people_have_set(worker: Worker, prefect_server: PrefectServer) -> None:
    schedule = {"schedule": {"cron": "0 3 1 1 *", "timezone": "UTC"}, "active": True}
    deployment = _fleet(prefect_server)["id"]
    prefect_server.post(f"/deployments/{deployment}/schedules", json=[schedule])
    changed = {"paused": True, "tags": ["mine"], "parameters": {"target": "@web"}, "description": "an old text"}
    assert prefect_server.api.patch(f"/deployments/{deployment}", json=changed).is_success
    assert worker.terminate() == 0
    worker.start()
    after = _fleet(prefect_server)
    assert (after["id"], after["paused"], after["parameters"]) == (deployment, True, {"target": "@web"})
    assert [item["schedule"]["cron"] for item in after["schedules"]] == ["0 3 1 1 *"]
    assert set(after["tags"]) == {"mine", *DEPLOYMENTS[0].tags}
    assert after["description"] == DEPLOYMENTS[0].description
    assert after["work_pool_name"] == worker.pool
