"""The client's end of the worker's socket."""

import json
import socket
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
