"""Small files that FLEETFLOW_HOME keeps for ever: made on first use, and read by their user alone."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from models.errors import UnavailableError


def keep(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds, which `make` makes where it is missing; two processes that start at once agree on the first one's.

    Raises `UnavailableError`.
    """
    try:
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(make())
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"file {path}", error.strerror or str(error)) from None
