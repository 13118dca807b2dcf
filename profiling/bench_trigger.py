"""Seconds from a trigger to a finished one-host task: our worker beside Prefect's process worker, and our command beside Ansible's."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from side_by_side import Row, compare, in_turn, show

from tests.servers.sshd import run_sshd
from tests.stacks import PROGRAM, Stack, run_stack

POOL = "bench-process"
TRIGGERS = 20
COMMANDS = 10


@contextmanager
def _process_worker(stack: Stack) -> Iterator[None]:
    """Prefect's own worker, with the same flow and the same poll interval as ours."""
    user, password = stack.auth
    environ = stack.environ | {
        "PREFECT_API_URL": stack.status["api_url"],
        "PREFECT_API_AUTH_STRING": f"{user}:{password}",
        "PREFECT_HOME": str(stack.home / "prefect-client"),
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }
    stack.api("POST", "/work_pools/", {"name": POOL, "type": "process"})
    ours = stack.api("GET", "/deployments/name/run-command/fleet")
    stack.api(
        "POST", "/deployments/", {"name": "process", "flow_id": ours["flow_id"], "entrypoint": ours["entrypoint"], "work_pool_name": POOL}
    )
    prefect = [str(Path(sys.executable).parent / "prefect"), "worker", "start", "--pool", POOL, "--type", "process"]
    with (stack.home / "process-worker.log").open("wb") as log:
        process = subprocess.Popen(prefect, env=environ, cwd=stack.home, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _trigger(stack: Stack, url: str, deployment: str, command: str) -> float:
    """Trigger a run, and poll the API until it has ended."""
    import httpx

    with httpx.Client(base_url=url, auth=stack.auth, timeout=30, trust_env=False) as api:

        def ask(method: str, path: str, **body: Any) -> Any:
            while (answer := api.request(method, path, json=body or None)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
                time.sleep(0.05)
            answer.raise_for_status()
            return answer.json()

        known = ask("GET", f"/deployments/name/{deployment}")
        began = time.perf_counter()
        run = ask(
            "POST", f"/deployments/{known['id']}/create_flow_run",
            parameters={"command": command, "target": "localhost"}, idempotency_key=str(uuid.uuid4()),
        )  # fmt: skip
        while (state := ask("GET", f"/flow_runs/{run['id']}")["state"]["type"]) not in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            time.sleep(0.02)
        assert state == "COMPLETED", state
        return time.perf_counter() - began


def _whole(command: list[str], environ: dict[str, str]) -> float:
    """Seconds that a command takes. Without a timeout, with which subprocess looks for its end in steps of up to 50 ms."""
    began = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(triggers: int = TRIGGERS, commands: int = COMMANDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, run_sshd(Path(name) / "sshd") as sshd, run_stack(Path(name) / "home", sshd) as stack:
        url = stack.status["api_url"]
        with _process_worker(stack):
            ours, theirs = in_turn(
                triggers,
                lambda: _trigger(stack, url, "run-command/fleet", "true"),
                lambda: _trigger(stack, url, "run-command/process", "true"),
            )
        rows = [
            compare(
                "trigger to finished one-host task",
                "s",
                ours,
                "Prefect's process worker",
                theirs,
                "a sixth of it",
                lambda _, ratio: ratio <= 1 / 6,
            )
        ]
        run = [str(PROGRAM), "run", "true", "-t", "localhost"]
        ansible = shutil.which("ansible", path=str(Path(sys.executable).parent))
        assert ansible, "install profiling/peers.lock"
        raw = [ansible, "-i", "localhost,", "localhost", "-c", "local", "-m", "raw", "-a", "true"]
        mine, other = in_turn(
            commands, lambda: _whole(run, stack.environ), lambda: _whole(raw, os.environ | {"ANSIBLE_LOCALHOST_WARNING": "false"})
        )
        rows.append(
            compare("fleetflow run true -t localhost", "s", mine, "ansible -m raw -a true", other, "faster", lambda _, ratio: ratio < 1)
        )
        return rows


if __name__ == "__main__":
    show(measure())
