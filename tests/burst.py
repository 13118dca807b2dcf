"""Many tasks at once against the same hosts, with a witness on the hosts, and what must hold afterwards."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from models.states import ExecutionState, TaskState
from tests.stacks import Stack
from tests.until import until

_PATIENCE = 180.0  # seconds: under thousands of events the server's SQLite stands still for a minute now and then
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Burst:
    """`tasks` runs of one command on `hosts` addresses from 127.9.0.1 on; each writes a line of its own on each host."""

    def __init__(self, stack: Stack, witness: Path, tasks: int, hosts: int) -> None:
        self._stack = stack
        self._witness = witness
        self._tasks = tasks
        self._hosts = hosts
        self._api = httpx.Client(base_url=stack.status["api_url"], auth=stack.auth, timeout=60, trust_env=False)
        self._before = set(self._numbers())

    def run(self, seconds: float) -> list[str]:
        """Send all tasks at the same moment, and wait until each has ended; returns their states."""
        deployment = self._ask("GET", "/deployments/name/run-command/fleet")["id"]
        with ThreadPoolExecutor(self._tasks) as pool:
            runs = list(pool.map(lambda number: self._send(deployment, number), range(self._tasks)))

        def ended() -> list[str] | None:
            found = self._ask("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
            states = [run["state_type"] for run in found]
            return states if len(states) == self._tasks and set(states) <= _FINAL else None

        return until(ended, seconds, "the end of every flow run") or []

    def trouble(self) -> list[str]:
        """What did not succeed, host by host: a burst that fails says why."""
        store = self._stack.store()
        try:
            ended = [execution for number in sorted(set(self._numbers()) - self._before) for execution in store.executions(number)]
        finally:
            store.close()
        bad = [execution for execution in ended if execution.state is not ExecutionState.SUCCEEDED]
        return [f"task {execution.task_id}, {execution.host}: {execution.state}, {execution.error}" for execution in bad]

    def check(self) -> None:
        """No result is lost, none is there twice, and the hosts say the same."""
        new = sorted(set(self._numbers()) - self._before)
        assert len(new) == self._tasks
        store = self._stack.store()
        for number in new:
            task = store.task(number)
            assert (task.state, task.counts[ExecutionState.SUCCEEDED]) == (TaskState.SUCCEEDED, self._hosts)
            assert store.recount(number) == task.counts
            executions = store.executions(number)
            assert {execution.attempt for execution in executions} == {1}
            assert {store.row(execution)["stdout"] for execution in executions} == {f"task {task.command.env['NUMBER']}\n"}
        store.close()
        self._api.close()
        lines = self._witness.read_text().split()
        wanted = {f"{number}:127.9.0.{host}" for number in range(self._tasks) for host in range(1, self._hosts + 1)}
        assert (len(lines), set(lines)) == (len(wanted), wanted)

    def _send(self, deployment: str, number: int) -> str:
        script = f'echo "task $NUMBER"; set -- $SSH_CONNECTION; echo "$NUMBER:$3" >> {self._witness}'
        parameters = {"command": script, "target": f"127.9.0.[1-{self._hosts}]", "env": [f"NUMBER={number}"]}
        body = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex, "state": {"type": "SCHEDULED"}}
        return str(self._ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        def answer() -> httpx.Response | None:
            try:
                got = self._api.request(method, path, json=body)
            except httpx.TransportError:  # a busy server; the key in the body makes it safe to ask again
                return None
            return None if got.status_code == httpx.codes.SERVICE_UNAVAILABLE else got

        got = until(answer, _PATIENCE, f"an answer to {path}")
        assert got is not None
        got.raise_for_status()
        return got.json()

    def _numbers(self) -> list[int]:
        store = self._stack.store()
        try:
            return [line.id for line in store.tasks(100_000)]
        finally:
            store.close()
