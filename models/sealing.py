"""Seals what must not stand in the database in clear, with a key that FLEETFLOW_HOME keeps."""

from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from models.errors import UnavailableError
from models.keepsake import keep


class Seal:
    """Seals and opens. Whoever has the key, a file that only its user can read, can open what others of this home have sealed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "bus.key"
        self._fernet = Fernet(keep(self._path, Fernet.generate_key))

    def close(self, data: bytes) -> bytes:
        """The data, sealed."""
        return self._fernet.encrypt(data)

    def open(self, data: bytes) -> bytes:
        """What was sealed; raises `UnavailableError` where that was done with another key."""
        try:
            return self._fernet.decrypt(data)
        except InvalidToken:
            raise UnavailableError(f"file {self._path}", "is not the key with which a command with secrets was sealed") from None
