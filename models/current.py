"""The inventory as it is now, for a process that asks all the time: it is read anew when one of its files has changed."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from models import inventory
from models.errors import FleetflowError, UnknownNameError
from models.inventory import Inventory
from models.sshconfig import stamp

T = TypeVar("T")


class CurrentInventory:
    """Of one home. For any thread."""

    def __init__(self, home: Path, ssh_config: Path) -> None:
        self._home = home
        self._ssh_config = ssh_config
        self._lock = threading.Lock()
        self._files: object = None
        self._found: Inventory | FleetflowError = Inventory({}, {})

    def get(self) -> Inventory:
        """The inventory; raises `InventoryError` or `SettingsError` where it cannot be read."""
        with self._lock:
            files = self._stat()
            if files != self._files:
                self._found = self._load()
                self._files = files
            found = self._found
        if isinstance(found, FleetflowError):
            raise found
        return found

    def ask(self, question: Callable[[Inventory], T]) -> T:
        """The answer to a question about targets. For an unknown name all is read anew: a file that another includes may have changed."""
        try:
            return question(self.get())
        except UnknownNameError:
            with self._lock:
                self._files = None
            return question(self.get())

    def _load(self) -> Inventory | FleetflowError:
        try:
            return Inventory.load(self._home, self._ssh_config)
        except FleetflowError as error:
            return error

    def _stat(self) -> object:
        try:
            found = [*inventory.paths(self._home), self._ssh_config]
        except FleetflowError as error:
            return str(error)
        return [(path, stamp(path)) for path in found]
