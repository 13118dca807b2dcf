"""Seals what must not stand in the database in clear, with a key that FLEETFLOW_HOME keeps."""

import os
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from models.errors import UnavailableError


class Seal:
    """Seals and opens. Whoever has the key, a file that only its user can read, can open what others of this home have sealed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "bus.key"
        self._fernet = Fernet(_key(self._path))

    def close(self, data: bytes) -> bytes:
        """The data, sealed."""
        return self._fernet.encrypt(data)

    def open(self, data: bytes) -> bytes:
        """What was sealed; raises `UnavailableError` where that was done with another key."""
        try:
            return self._fernet.decrypt(data)
        except InvalidToken:
            raise UnavailableError(f"file {self._path}", "is not the key with which a command with secrets was sealed") from None


def _key(path: Path) -> bytes:
    """The key, made on first use; two processes that start at once agree on the first one's."""
    try:
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(Fernet.generate_key())
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"file {path}", error.strerror or str(error)) from None
