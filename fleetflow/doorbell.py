"""The client's end of the worker's socket."""

import json
import socket
import uuid
from pathlib import Path
from typing import Any

from models.sockets import short_path


def ping(home: Path, seconds: float = 1.0) -> dict[str, Any] | None:
    """Who the worker of `home` is; None when none answers within `seconds`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, short_path(home / "worker.sock") as path:
            client.settimeout(seconds)
            client.connect(path)
            client.sendall(b'{"ping": true}\n')
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline(4096))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def watch(home: Path, flow_run_id: uuid.UUID) -> dict[str, Any] | None:
    """What the worker of `home` says when a flow run has ended; None when it cannot say. Asking also wakes it at once.

    The answer holds the task and its results where they are small enough (flows/answers.py).
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, short_path(home / "worker.sock") as path:
            client.connect(path)
            client.sendall(json.dumps({"watch": str(flow_run_id)}).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None
