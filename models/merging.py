"""Which value of a host counts: its own, else its groups', else the defaults'."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.errors import InventoryError
from models.hostsfile import GroupEntry, HostEntry, Place, Reach
from models.values import ExecutorKind, Host

Values = dict[str, Any]
_FIELDS = tuple(name for name in Reach.model_fields if name != "tags")
_TAG = "tag:"


@dataclass(frozen=True, slots=True)
class _Shared:
    """What hosts of the same groups have in common; a clash counts only for a host that does not say it by itself."""

    values: Values
    tags: Mapping[str, str]
    clashes: Mapping[str, tuple[str, str]]  # field or tag:name -> two groups that disagree on it
    executor_of_groups: ExecutorKind | None


class Merger:
    """Makes hosts from what the files say of them."""

    def __init__(self, groups: Mapping[str, tuple[GroupEntry, Place]], defaults: tuple[Reach, Place] | None) -> None:
        self._groups = groups
        self._defaults = defaults[0] if defaults else Reach()
        self._shared: dict[frozenset[str], _Shared] = {}
        self._own: dict[int, Values] = {}  # by identity of the entry: a range has one for many hosts

    def host(self, name: str, entry: tuple[HostEntry, Place] | None, groups: frozenset[str]) -> Host:
        shared = self._share(groups)
        own = self._given(entry[0]) if entry else {}
        own_tags = entry[0].tags if entry else {}
        self._refuse_clash(name, shared, own.keys() | {_TAG + key for key in own_tags})
        values = {**shared.values, **own}
        if name == "localhost":
            values["executor"] = own.get("executor") or shared.executor_of_groups or ExecutorKind.LOCAL
        address = values.pop("address", None)
        return Host(
            name=name,
            address=address.replace("{name}", name) if address else None,
            groups=groups,
            tags={**shared.tags, **own_tags} if own_tags else shared.tags,
            **values,
        )

    def _share(self, groups: frozenset[str]) -> _Shared:
        if groups not in self._shared:
            self._shared[groups] = self._combine(groups)
        return self._shared[groups]

    def _combine(self, groups: frozenset[str]) -> _Shared:
        values: Values = {}
        said_by: dict[str, str] = {}
        clashes: dict[str, tuple[str, str]] = {}
        for group in sorted(groups & self._groups.keys()):
            for key, value in self._settings(group).items():
                if values.setdefault(key, value) != value:
                    clashes[key] = said_by[key], group
                said_by.setdefault(key, group)
        every = {**_settings(self._defaults), **values}
        return _Shared(
            values={key: value for key, value in every.items() if not key.startswith(_TAG)},
            tags=MappingProxyType({key.removeprefix(_TAG): value for key, value in every.items() if key.startswith(_TAG)}),
            clashes=clashes,
            executor_of_groups=values.get("executor"),
        )

    def _settings(self, group: str) -> Values:
        return _settings(self._groups[group][0])

    def _given(self, entry: HostEntry) -> Values:
        if id(entry) not in self._own:
            self._own[id(entry)] = _given(entry)
        return self._own[id(entry)]

    def _refuse_clash(self, name: str, shared: _Shared, own: Set[str]) -> None:
        for key, (one, other) in shared.clashes.items():
            if key not in own:
                place = self._groups[other][1]
                reason = f"host {name!r}: its groups {one!r} and {other!r} disagree on {key}; say it on the host"
                raise InventoryError(place.path, reason, place.line)


def _given(reach: Reach) -> Values:
    values = {field: value for field in _FIELDS if (value := getattr(reach, field)) is not None}
    if "identity" in values:
        values["identity"] = Path(values["identity"]).expanduser()
    return values


def _settings(reach: Reach) -> Values:
    """Values and tags side by side, since both may clash."""
    return {**_given(reach), **{_TAG + key: value for key, value in reach.tags.items()}}
