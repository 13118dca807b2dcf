"""Reads the hosts of an ssh config: the literal names on its `Host` lines, and what is said of them."""

from collections.abc import Iterable, Iterator

from fleetflow.hostlist import HostList
from models.names import HOST
from models.sshconfig import Block, Line, literal_names, parse
from models.wildcards import lower, matches

_FIELDS = {
    "hostname": "address",
    "user": "user",
    "port": "port",
    "identityfile": "identity",
    "proxyjump": "jump",
    "stricthostkeychecking": "host_key",
}
_HOST_KEY = {"yes": "strict", "ask": "strict", "accept-new": "accept-new", "no": "off", "off": "off"}


def read(found: HostList, _text: str) -> None:
    """Take the literal names, each with the first value of every keyword, as ssh_config(5) says."""
    blocks = parse(found.path.absolute())
    for name in sorted(literal_names(found.path.absolute())):
        if not HOST.fullmatch(name):
            found.left_out.append(f"{name!r}: it cannot be a name of the inventory")
            continue
        values: dict[str, object] = {}
        for line in _lines(blocks, name):
            values.setdefault(_FIELDS[line.keyword], _value(line, name))
        found.add(name, {key: value for key, value in values.items() if value is not None})
    conditions = {f"{line.path}:{line.number}: Match {line.text}" for line in _conditions(blocks)}
    found.left_out.extend(sorted(conditions))


def _lines(blocks: Iterable[Block], name: str) -> Iterator[Line]:
    """The lines that count for this host and that an inventory can hold."""
    for block in blocks:
        if not _applies(block.head, name):
            continue
        for item in block.items:
            if isinstance(item, tuple):
                yield from _lines(item, name)
            elif item.keyword in _FIELDS:
                yield item


def _applies(head: Line | None, name: str) -> bool:
    if head is None:
        return True
    if head.keyword == "match":
        return [word.lower() for word in head.args] == ["all"]
    fits = [pattern.startswith("!") for pattern in head.args if matches(lower(name), lower(pattern.removeprefix("!")))]
    return bool(fits) and not any(fits)


def _conditions(blocks: Iterable[Block]) -> Iterator[Line]:
    for block in blocks:
        if block.head and block.head.keyword == "match" and [word.lower() for word in block.head.args] != ["all"]:
            yield block.head
        for item in block.items:
            if isinstance(item, tuple):
                yield from _conditions(item)


def _value(line: Line, name: str) -> str | None:
    """The value as an inventory spells it; None for what only ssh can work out."""
    value = line.args[0]
    if line.keyword == "stricthostkeychecking":
        return _HOST_KEY.get(value.lower())
    if line.keyword == "hostname":
        value = value.replace("%h", name)
    return None if "%" in value or "${" in value or (value.lower() == "none" and line.keyword == "identityfile") else value
