"""Who runs a flow or an execution: a host, a FLEETFLOW_HOME on it, and one life of a process."""

import contextlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.errors import UnavailableError


@dataclass(frozen=True)
class Owner:
    """Written `host:home:incarnation` wherever something in progress must be traced back to the process that runs it."""

    host: str
    home: str  # a random id that FLEETFLOW_HOME keeps
    incarnation: str  # a random id of this process

    @classmethod
    def load(cls, home: Path) -> Self:
        """A new incarnation of `home`; raises `UnavailableError` when the folder cannot be written."""
        return cls(host=socket.gethostname().replace(":", "-"), home=_home_id(home), incarnation=uuid.uuid4().hex[:12])

    def __str__(self) -> str:
        return f"{self.host}:{self.home}:{self.incarnation}"

    def same_home(self, other: str) -> bool:
        """Whether `other` is an incarnation of the same home on the same host."""
        return other.startswith(f"{self.host}:{self.home}:")


def make_home(home: Path) -> None:
    """Create FLEETFLOW_HOME, readable by its user alone; raises `UnavailableError`."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if home.stat().st_mode & 0o077:
            home.chmod(0o700)
        if not os.access(home, os.W_OK | os.X_OK):
            raise UnavailableError(f"folder {home}", "cannot be written; set FLEETFLOW_HOME to a folder that can")
    except OSError as error:
        raise UnavailableError(f"folder {home}", f"{error.strerror or error}; set FLEETFLOW_HOME to a folder that can be written") from None


def _home_id(home: Path) -> str:
    make_home(home)
    file = home / "home.id"
    try:
        if not (file.exists() and file.read_text().strip()):
            _write_once(file, uuid.uuid4().hex[:12])
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"file {file}", str(error)) from None


def _write_once(file: Path, text: str) -> None:
    """Two processes that start at once agree on the text of the first: `link` never replaces."""
    draft = file.with_name(f"{file.name}.{text}")
    draft.write_text(text)
    try:
        if file.exists() and not file.read_text().strip():
            draft.replace(file)  # torn by a full disk
        else:
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)
