"""Reads an Ansible inventory in INI format: hosts, groups, children, and the variables that say how a host is reached."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fleetflow.hostlist import HostList
from models.ranges import RangeError, expand

_FIELDS = {
    "ansible_host": "address",
    "ansible_ssh_host": "address",
    "ansible_port": "port",
    "ansible_ssh_port": "port",
    "ansible_user": "user",
    "ansible_ssh_user": "user",
    "ansible_private_key_file": "identity",
    "ansible_ssh_private_key_file": "identity",
}
_NO_GROUPS = {"all", "ungrouped"}
_HEADER = re.compile(r"\[([^:\]]+)(?::(\w+))?\]")
_KINDS = {None, "hosts", "vars", "children"}

Variables = dict[str, str]


@dataclass
class _Inventory:
    hosts: dict[str, Variables] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # of each host
    parents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # of each group
    variables: dict[str, Variables] = field(default_factory=lambda: defaultdict(dict))  # of each group


def read(found: HostList, text: str) -> None:
    """Take all hosts; a host's variables win over its groups', and a group's over its parents'."""
    inventory = _parse(found, text)
    unused: set[str] = set()
    for name, own in inventory.hosts.items():
        depths = _ancestors(found, inventory, inventory.groups[name] or {"ungrouped"})
        variables: Variables = {}
        for group in sorted(depths, key=lambda group: (depths[group], group)):
            variables.update(inventory.variables.get(group, {}))
        values, rest = _translate({**variables, **own})
        unused.update(rest)
        groups = sorted(depths.keys() - _NO_GROUPS)
        found.add(name, {**values, **({"groups": groups} if groups else {})})
    if unused:
        found.left_out.append(f"variables {', '.join(sorted(unused))}")


def _parse(found: HostList, text: str) -> _Inventory:
    inventory = _Inventory()
    group, kind = "ungrouped", "hosts"
    for number, line in _lines(text):
        if header := _HEADER.fullmatch(line):
            if header[2] not in _KINDS:
                raise found.error(f"[{header[1]}:{header[2]}] is no section; there are hosts, vars and children", number)
            group, kind = header[1].strip(), header[2] or "hosts"
            continue
        try:
            _PARSERS[kind](inventory, group, line)
        except ValueError as error:
            raise found.error(str(error), number) from None
    return inventory


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and line[0] not in "#;":
            yield number, re.sub(r"\s+#.*", "", line) if line.startswith("[") else line


def _parse_host(inventory: _Inventory, group: str, line: str) -> None:
    pattern, *words = shlex.split(line, comments=True)
    variables = dict(_assignment(word) for word in words)
    if found := re.fullmatch(r"([^\[\]:]+|.*\][^:]*):([0-9]+)", pattern):
        pattern = found[1]
        variables.setdefault("ansible_port", found[2])
    for name in _names(pattern):
        inventory.hosts.setdefault(name, {}).update(variables)
        inventory.groups[name].add(group)


def _parse_variable(inventory: _Inventory, group: str, line: str) -> None:
    key, value = _assignment(line)
    words = shlex.split(value, comments=True)
    inventory.variables[group][key] = " ".join(words) if value[:1] in {"'", '"'} else value


def _parse_child(inventory: _Inventory, group: str, line: str) -> None:
    inventory.parents[line.split()[0]].add(group)


_PARSERS = {"hosts": _parse_host, "vars": _parse_variable, "children": _parse_child}


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{text[:60]!r} is not key=value")
    return key.strip(), value.strip()


_NUMBERS = re.compile(r"\[([0-9]+):([0-9]+)(?::([0-9]+))?\]")
_LETTERS = re.compile(r"\[([A-Za-z]):([A-Za-z])(?::([0-9]+))?\]")


def _names(pattern: str) -> list[str]:
    """The hosts of `web[01:20].example.com` or `db-[a:f]`."""
    letters = _LETTERS.search(pattern)
    if letters:
        codes = range(ord(letters[1]), ord(letters[2]) + 1, int(letters[3] or 1))
        names = [pattern[: letters.start()] + chr(code) + pattern[letters.end() :] for code in codes]
        return [name for part in names for name in _names(part)]
    try:
        return expand(_NUMBERS.sub(lambda found: f"[{found[1]}-{found[2]}/{found[3] or 1}]", pattern))
    except RangeError as error:
        raise ValueError(f"{pattern[:60]!r}: {error}") from None


def _ancestors(found: HostList, inventory: _Inventory, groups: set[str]) -> dict[str, int]:
    """All groups above these and themselves, with how deep below `all` each stands."""
    depths: dict[str, int] = {"all": 0}

    def visit(group: str, path: tuple[str, ...]) -> int:
        if group in path:
            raise found.error(f"groups form a circle: {' > '.join((*path, group))}")
        if group not in depths:
            depths[group] = 1 + max((visit(parent, (*path, group)) for parent in inventory.parents.get(group, ())), default=0)
        return depths[group]

    for group in groups:
        visit(group, ())
    return depths


def _translate(variables: Mapping[str, str]) -> tuple[dict[str, object], set[str]]:
    """What an inventory of ours can hold, and the names of the variables that it can not."""
    values: dict[str, object] = {}
    rest: set[str] = set()
    for key, value in variables.items():
        if "{{" in value:
            rest.add(key)
        elif key in _FIELDS:
            values[_FIELDS[key]] = value
        elif key == "ansible_connection" and value in {"local", "ssh", "smart", "paramiko"}:
            values.update({"executor": "local"} if value == "local" else {})
        elif key in {"ansible_ssh_common_args", "ansible_ssh_extra_args"} and (options := _ssh_options(value)):
            values.update(options)
        else:
            rest.add(key)
    return values, rest


def _ssh_options(arguments: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if jump := re.search(r"(?:-J\s*|-o\s*ProxyJump[= ])([^\s'\"]+)", arguments):
        found["jump"] = jump[1]
    if re.search(r"-o\s*StrictHostKeyChecking[= ](no|off)\b", arguments):
        found["host_key"] = "off"
    return found
