"""Speaks to Prefect's API over plain HTTP, so that the command line need not import Prefect (1.6 s) or httpx (0.2 s)."""

import base64
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from models.errors import UnavailableError
from models.poolmark import database_of

RUN_COMMAND, RUN_SCRIPT = "run-command/fleet", "run-script/fleet"
_PATIENCE = 30.0  # seconds that a server which answers "busy" or nothing is asked again
_REFUSED_PATIENCE = 3.0  # the same where nobody listens: a server that starts again takes longer, and a wrong address is more likely
_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow run as Prefect's API shows it."""

    id: uuid.UUID
    name: str
    state: str  # SCHEDULED, PENDING, RUNNING, COMPLETED, ...
    state_name: str  # as the flow named it
    message: str

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, and its state says why."""
        return self.state == "SCHEDULED" and bool(self.message)

    @property
    def is_final(self) -> bool:
        return self.state in _FINAL


class Prefect:
    """A Prefect API. Every call is safe to repeat, and is repeated while the server is busy."""

    def __init__(self, api_url: str, auth: str | None) -> None:
        self.api_url = api_url
        self._headers = {"Content-Type": "application/json"}
        if auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        self._path = urlsplit(api_url).path.rstrip("/")
        self._connection = _connection(api_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment as the API shows it; raises `UnavailableError` when there is none."""
        found: dict[str, Any] | None = self._call("GET", f"/deployments/name/{name}")
        if found is None:
            raise UnavailableError(f"Prefect at {self.api_url}", f"has no deployment {name}; `fleetflow up` makes it")
        return found

    def database_of(self, deployment: dict[str, Any]) -> str | None:
        """The UUID of the database that the worker of a deployment uses, where it has said so."""
        pool = self._call("GET", f"/work_pools/{quote(str(deployment['work_pool_name']), safe='')}")
        return database_of(pool["description"] or "") if pool else None

    def run(self, deployment: dict[str, Any], parameters: dict[str, Any], key: str, tags: Sequence[str] = ()) -> FlowRun:
        """Create a flow run; the same `key` gives the same run. Raises `UnavailableError`.

        The parameters are the caller's to check; the server would take 20 ms to compare them with the deployment's form.
        """
        body = {
            "parameters": parameters,
            "enforce_parameter_schema": False,
            "idempotency_key": key,
            "tags": list(tags),
            "state": {"type": "SCHEDULED"},
        }
        return _flow_run(self._call("POST", f"/deployments/{deployment['id']}/create_flow_run", body))

    def flow_run(self, flow_run_id: uuid.UUID) -> FlowRun | None:
        """A flow run, or None when it has been deleted."""
        found = self._call("GET", f"/flow_runs/{flow_run_id}")
        return _flow_run(found) if found else None

    def cancel(self, flow_run_id: uuid.UUID) -> bool:
        """Ask for the end of a flow run; the worker acts on it. False when there is no such run, or it has ended."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        answer = self._call("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": False})
        return answer is not None and answer.get("status") == "ACCEPT"

    def resume(self, flow_run_id: uuid.UUID, form: dict[str, str]) -> str | None:
        """Resume a paused flow run with its form filled in; None when it goes on, else why it does not."""
        answer = self._call("POST", f"/flow_runs/{flow_run_id}/resume", {"run_input": form})
        if answer is None:
            return "the flow run has been deleted"
        return None if answer.get("status") == "ACCEPT" else str((answer.get("details") or {}).get("reason") or answer.get("status"))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, or None where there is nothing (404); raises `UnavailableError`."""
        began = time.monotonic()
        pause = 0.1
        while True:
            patience = _PATIENCE
            try:
                status, answer = self._ask(method, path, body)
            except ConnectionRefusedError as error:
                trouble, patience = error.strerror or "", _REFUSED_PATIENCE
            except (OSError, HTTPException) as error:
                trouble = str(error) or type(error).__name__
            else:
                if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
                    return self._read(status, answer)
                trouble = f"HTTP {status}"
            if time.monotonic() + pause > began + patience:
                raise UnavailableError(f"Prefect at {self.api_url}", trouble)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        try:
            self._connection.request(method, self._path + path, None if body is None else json.dumps(body), self._headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            self._connection.close()  # the next request opens it anew
            raise

    def _read(self, status: int, answer: bytes) -> Any:
        what = f"Prefect at {self.api_url}"
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status == HTTPStatus.UNAUTHORIZED:
            raise UnavailableError(what, "refuses our login; set prefect_api_auth to user:password")
        try:
            found = json.loads(answer) if answer else None
        except ValueError:
            raise UnavailableError(what, "does not answer as Prefect does; is prefect_api_url right?") from None
        if status >= HTTPStatus.BAD_REQUEST:
            detail = found.get("detail") if isinstance(found, dict) else None
            raise UnavailableError(what, f"HTTP {status}: {detail or answer[:200].decode(errors='replace')}")
        return found


def _connection(api_url: str) -> HTTPConnection:
    parts = urlsplit(api_url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise UnavailableError(f"Prefect at {api_url}", "is no URL of the form http://host:port/api; set prefect_api_url")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname, port, timeout=20)


def _flow_run(answer: dict[str, Any]) -> FlowRun:
    state = answer.get("state") or {}
    return FlowRun(
        id=uuid.UUID(answer["id"]),
        name=answer.get("name") or "",
        state=state.get("type") or answer.get("state_type") or "PENDING",
        state_name=state.get("name") or "",
        message=state.get("message") or "",
    )
