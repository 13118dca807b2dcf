"""What `host import` has read from a file, whatever its kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleetflow.formats import Format
from models.errors import UsageError
from models.hostsfile import HostEntry, entry
from models.names import HOST
from models.ranges import fold, split


@dataclass
class HostList:
    """The hosts of a file, each with what is said of it."""

    path: Path
    format: Format
    hosts: dict[str, dict[str, object]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # what could not be taken over, for people

    @property
    def label(self) -> str:
        return fold(self.hosts)

    def entries(self) -> dict[str, HostEntry]:
        """The inventory's entries, hosts of which the same is said in one."""
        same: dict[str, tuple[HostEntry, list[str]]] = {}
        for name, values in self.hosts.items():
            try:
                said = entry(values)
            except UsageError as error:
                raise UsageError(f"{self.path}: host {name!r}: {error}") from None
            same.setdefault(said.model_dump_json(), (said, []))[1].append(name)
        return {pattern: said for said, names in same.values() for pattern in split(fold(names))}

    def add(self, name: str, values: Mapping[str, object], line: int | None = None) -> None:
        """Take a host, or more about one that is there; raises `UsageError` for a name that is none."""
        if not HOST.fullmatch(name):
            raise self.error(f"{name[:60]!r} is not a host name", line)
        self.hosts.setdefault(name, {}).update(values)

    def error(self, reason: str, line: int | None = None) -> UsageError:
        return UsageError(f"{self.path}:{line}: {reason}" if line else f"{self.path}: {reason}")
