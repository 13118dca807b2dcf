"""The hosts that fleetflow knows: hosts.yaml and hosts.d/*.yaml in FLEETFLOW_HOME, literal names of ~/.ssh/config, and localhost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from models import hostsfile, sshconfig
from models.errors import InventoryError, NotFoundError
from models.hops import spell, with_jumps
from models.hostsfile import Place, Source
from models.merging import Merger
from models.names import HOST
from models.ranges import LIMIT, RangeError, expand, natural, split
from models.values import ExecutorKind, Host

Key = TypeVar("Key")
LOCALHOST = "localhost"


@dataclass(frozen=True)
class Inventory:
    """All known hosts. `hosts`, `groups` and `tags` hold what the inventory files say; `find` knows the others too."""

    hosts: Mapping[str, Host]
    places: Mapping[str, tuple[Place, ...]]  # where each of the hosts is named
    ssh_config: Path | None = None

    @classmethod
    def load(cls, home: Path, ssh_config: Path | None = None) -> "Inventory":
        """Read the files of this home; raises `InventoryError` with file and line."""
        return cls.of([hostsfile.read(path) for path in paths(home)], ssh_config)

    @classmethod
    def of(cls, sources: Iterable[Source], ssh_config: Path | None = None) -> "Inventory":
        """Put files that were read together; raises `InventoryError` where they contradict each other."""
        gathered = _Gatherer()
        for source in sources:
            gathered.add(source)
        merger = Merger(gathered.groups, gathered.defaults)
        hosts = {name: merger.host(name, gathered.entries.get(name), frozenset(groups)) for name, groups in gathered.groups_of.items()}
        places = {name: tuple(found) for name, found in gathered.places.items()}
        return cls(MappingProxyType(with_jumps(hosts, places)), MappingProxyType(places), ssh_config)

    def find(self, name: str) -> Host:
        """The host of this name; raises `NotFoundError`."""
        if name in self.hosts:
            return self.hosts[name]
        if name == LOCALHOST:
            return Host(name=name, executor=ExecutorKind.LOCAL)
        if name in self.ssh_names:
            return Host(name=name)
        raise NotFoundError("host", name)

    def known(self) -> tuple[Host, ...]:
        """All hosts that have a name of their own, in natural order."""
        return tuple(self.find(name) for name in sorted({*self.hosts, *self.ssh_names, LOCALHOST}, key=natural))

    def spell_jump(self, jump: str) -> str:
        """A jump as ProxyJump spells it, with the addresses, users, ports and jumps that its hosts have in this inventory."""
        return spell(jump, self.hosts, self.places)

    def source(self, name: str) -> str:
        """Where a name comes from."""
        if name in self.places:
            return ", ".join(map(str, self.places[name]))
        if name == LOCALHOST:
            return "always known"
        return str(self.ssh_config) if name in self.ssh_names else "the target itself"

    @cached_property
    def ssh_names(self) -> frozenset[str]:
        """The literal names of ~/.ssh/config that can be spelled in a target; raises `SettingsError` when it cannot be read."""
        if self.ssh_config is None:
            return frozenset()
        return frozenset(name for name in sshconfig.literal_names(self.ssh_config) if HOST.fullmatch(name))

    @cached_property
    def groups(self) -> Mapping[str, frozenset[str]]:
        """The names of the hosts of each group."""
        return MappingProxyType(_index((group, host.name) for host in self.hosts.values() for group in host.groups))

    @cached_property
    def tags(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """The names of the hosts by tag and value."""
        by_pair = _index((pair, host.name) for host in self.hosts.values() for pair in host.tags.items())
        tags: dict[str, dict[str, frozenset[str]]] = {}
        for (key, value), names in by_pair.items():
            tags.setdefault(key, {})[value] = names
        return MappingProxyType(tags)


def paths(home: Path) -> list[Path]:
    """The inventory files of this home, in the order of reading."""
    people, folder = home / "hosts.yaml", home / "hosts.d"
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise InventoryError(folder, error.strerror or str(error)) from None
    return [*([people] if people.exists() else []), *found]


def _index(pairs: Iterable[tuple[Key, str]]) -> dict[Key, frozenset[str]]:
    found: dict[Key, list[str]] = {}
    for key, name in pairs:
        found.setdefault(key, []).append(name)
    return {key: frozenset(names) for key, names in found.items()}


class _Gatherer:
    """Collects what all files say, and where."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[hostsfile.HostEntry, Place]] = {}
        self.groups: dict[str, tuple[hostsfile.GroupEntry, Place]] = {}
        self.defaults: tuple[hostsfile.Reach, Place] | None = None
        self.groups_of: dict[str, set[str]] = {}
        self.places: dict[str, list[Place]] = {}

    def add(self, source: Source) -> None:
        for pattern, entry in source.content.hosts.items():
            self._add_entry(source, pattern, entry or hostsfile.HostEntry())
        for name, group in source.content.groups.items():
            self._add_group(source, name, group or hostsfile.GroupEntry())
        if source.content.defaults is not None:
            place = source.place("defaults")
            if self.defaults is not None:
                raise InventoryError(place.path, f"defaults stand here and at {self.defaults[1]}; keep one", place.line)
            self.defaults = source.content.defaults, place

    def _add_entry(self, source: Source, pattern: str, entry: hostsfile.HostEntry) -> None:
        place = source.place("hosts", pattern)
        for name in self._expand(pattern, place):
            if name in self.entries:
                raise InventoryError(place.path, f"host {name!r} stands here and at {self.entries[name][1]}; keep one", place.line)
            self.entries[name] = entry, place
            self._know(name, entry.groups, place)

    def _add_group(self, source: Source, name: str, group: hostsfile.GroupEntry) -> None:
        place = source.place("groups", name)
        if name in self.groups:
            raise InventoryError(place.path, f"group {name!r} stands here and at {self.groups[name][1]}; keep one", place.line)
        self.groups[name] = group, place
        for index, pattern in enumerate(group.hosts):
            spot = source.place("groups", name, "hosts", index)
            for member in self._expand(pattern, spot):
                self._know(member, (name,), spot)

    def _know(self, name: str, groups: Iterable[str], place: Place) -> None:
        self.groups_of.setdefault(name, set()).update(groups)
        self.places.setdefault(name, []).append(place)

    def _expand(self, patterns: str, place: Place) -> Iterable[str]:
        for pattern in split(patterns):
            try:
                names = expand(pattern.strip(), LIMIT - len(self.groups_of))
            except RangeError as error:
                raise InventoryError(place.path, f"{pattern[:60]!r}: {error}", place.line) from None
            for name in names:
                if not HOST.fullmatch(name):
                    raise InventoryError(place.path, f"{name[:60]!r} is not a host name; what it connects to is its address", place.line)
                yield name
