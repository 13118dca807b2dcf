"""Speaks to Prefect's API over plain HTTP, so that the command line need not import Prefect."""

import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from models.errors import UnavailableError

DEPLOYMENT = "run-command/fleet"
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
    def is_final(self) -> bool:
        return self.state in _FINAL


class Prefect:
    """A Prefect API. Every call is safe to repeat, and is repeated while the server is busy."""

    def __init__(self, api_url: str, auth: str | None) -> None:
        self.api_url = api_url
        user, _, password = (auth or "").partition(":")
        self._http = httpx.Client(base_url=api_url, auth=(user, password) if auth else None, timeout=20, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def run_deployment(self, name: str, parameters: dict[str, Any], key: str) -> FlowRun:
        """Create a flow run; the same `key` gives the same run. Raises `UnavailableError`."""
        deployment = self._call("GET", f"/deployments/name/{name}")
        if deployment is None:
            raise UnavailableError(f"Prefect at {self.api_url}", f"has no deployment {name}; `fleetflow up` makes it")
        body = {"parameters": parameters, "idempotency_key": key, "state": {"type": "SCHEDULED"}}
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

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        pause = 0.1
        while True:
            patience = _PATIENCE
            try:
                response = self._http.request(method, path, json=body)
            except httpx.ConnectError as error:
                trouble, patience = str(error), _REFUSED_PATIENCE
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            else:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                if response.is_success:
                    return _decoded(self.api_url, response)
                if response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    raise UnavailableError(f"Prefect at {self.api_url}", _refusal(response))
                trouble = f"HTTP {response.status_code}"
            if time.monotonic() + pause > began + patience:
                raise UnavailableError(f"Prefect at {self.api_url}", trouble)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def _decoded(api_url: str, response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise UnavailableError(f"Prefect at {api_url}", "does not answer as Prefect does; is prefect_api_url right?") from None


def _refusal(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return "refuses our login; set prefect_api_auth to user:password"
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    return f"HTTP {response.status_code}: {detail or response.text[:200]}"


def _flow_run(answer: dict[str, Any]) -> FlowRun:
    state = answer.get("state") or {}
    return FlowRun(
        id=uuid.UUID(answer["id"]),
        name=answer.get("name") or "",
        state=state.get("type") or answer.get("state_type") or "PENDING",
        state_name=state.get("name") or "",
        message=state.get("message") or "",
    )
