"""Target expressions: which hosts `web[01-20],@db,!web07`, `@prod&@web`, `tag:dc=ams` or `deploy@10.0.0.1:2222` stand for.

The grammar stands in docs/inventory.md. Operators are taken from left to right, as ClusterShell does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from models.errors import NoHostsError, NotFoundError, TargetError, UnknownNameError
from models.inventory import Inventory
from models.names import GROUP, HOST, TAG_KEY, TAG_VALUE, Spelling, parse
from models.ranges import LIMIT, RangeError, expand, fold, natural
from models.values import ExecutorKind, Host
from models.wildcards import matches

__all__ = ["check_syntax", "fold", "resolve"]

UNION, EXCEPT, INTERSECT = ",", "!", "&"
EVERYONE = {"all", "*"}


def resolve(target: str, inventory: Inventory) -> tuple[Host, ...]:
    """The hosts of a target, in natural order; raises `TargetError`, `UnknownNameError` or `NoHostsError`."""
    lookup = _Lookup(target, inventory)
    chosen: dict[str, Host] = {}
    for operand in _parse(target):
        found = lookup.hosts(operand)
        lookup.refuse_void(operand, chosen)
        chosen = _apply(operand.operator, chosen, found)
    if not chosen:
        raise NoHostsError(target)
    if len(chosen) > LIMIT:
        raise TargetError(target, f"more than {LIMIT:,} hosts")
    return tuple(chosen[name] for name in sorted(chosen, key=natural))


def check_syntax(target: str) -> None:
    """Check what can be checked without an inventory; raises `TargetError`."""
    _parse(target)


def _apply(operator: str, chosen: dict[str, Host], operand: dict[str, Host]) -> dict[str, Host]:
    """May change `chosen`, so that a long list of names takes linear time."""
    if operator == INTERSECT:
        return {name: host for name, host in operand.items() if name in chosen}
    if operator == UNION:
        chosen.update(operand)
    else:
        for name in operand:
            chosen.pop(name, None)
    return chosen


@dataclass(frozen=True, slots=True)
class _Names:
    """Hosts by name."""

    operator: str
    spellings: tuple[Spelling, ...]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Hosts of the inventory by wildcard; `*` is all of them."""

    operator: str
    pattern: str


@dataclass(frozen=True, slots=True)
class _Group:
    operator: str
    name: str


@dataclass(frozen=True, slots=True)
class _Tag:
    operator: str
    key: str
    value: str


_Operand = _Names | _Pattern | _Group | _Tag


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Finds the hosts of operands; knows the whole target for its errors."""

    target: str
    inventory: Inventory

    def hosts(self, operand: _Operand) -> dict[str, Host]:
        match operand:
            case _Names(_, spellings):
                return {spelling.text: self._host(spelling) for spelling in spellings}
            case _Pattern(_, pattern):
                return self._matching(pattern)
            case _Group(_, name):
                return self._group(name)
            case _Tag(_, key, value):
                return self._tagged(key, value)

    def refuse_void(self, operand: _Operand, chosen: dict[str, Host]) -> None:
        """A plain host is excluded only as it was spelled; who writes it otherwise believes to be safe and is not."""
        if operand.operator != EXCEPT or not isinstance(operand, _Names):
            return
        for spelling in operand.spellings:
            if spelling.is_plain and spelling.text not in chosen and spelling.text not in self.inventory.hosts:
                raise TargetError(self.target, f"!{spelling.text} excludes nothing; write the host as the hosts before it are spelled")

    def _host(self, spelling: Spelling) -> Host:
        try:
            known = self.inventory.find(spelling.host)
        except NotFoundError:
            if not spelling.is_plain:
                raise UnknownNameError(self.target, "host", spelling.host) from None
            known = Host(name=spelling.host)
        return _as_spelled(known, spelling)

    def _matching(self, pattern: str) -> dict[str, Host]:
        found = {name: host for name, host in self.inventory.hosts.items() if matches(name, pattern)}
        if not found and pattern != "*":
            raise UnknownNameError(self.target, "host", pattern)
        return found

    def _group(self, name: str) -> dict[str, Host]:
        if name not in self.inventory.groups:
            raise UnknownNameError(self.target, "group", name)
        return self._named(self.inventory.groups[name])

    def _tagged(self, key: str, value: str) -> dict[str, Host]:
        values = self.inventory.tags.get(key)
        if values is None:
            raise UnknownNameError(self.target, "tag", key)
        if value not in values:
            raise UnknownNameError(self.target, "tag", f"{key}={value}")
        return self._named(values[value])

    def _named(self, names: frozenset[str]) -> dict[str, Host]:
        return {name: self.inventory.hosts[name] for name in names}


def _as_spelled(host: Host, spelling: Spelling) -> Host:
    """The host under the name as spelled; a user or port replaces its own, and says SSH."""
    if spelling.text == host.name:
        return host
    says_ssh = host.executor in {ExecutorKind.LOCAL, ExecutorKind.AGENT} and (spelling.user is not None or spelling.port is not None)
    return replace(
        host,
        name=spelling.text,
        address=host.address or host.name,
        user=spelling.user or host.user,
        port=spelling.port or host.port,
        executor=ExecutorKind.SSH if says_ssh else host.executor,
    )


_TOKEN = re.compile(r"(?P<operator>[\s,!&]*)(?P<operand>(?:\[[^\[\]]*\]|[^,!&])*)", re.DOTALL)


def _parse(target: str) -> list[_Operand]:
    """Read the whole expression; raises `TargetError`."""
    if not target.strip(" \t"):
        raise TargetError(target, "it is empty; @all is every host of the inventory")
    operands: list[_Operand] = []
    budget = LIMIT
    for operator, text in _tokens(target):
        try:
            operand = _read(operator, text, budget)
        except ValueError as error:
            raise TargetError(target, str(error)) from None
        budget -= len(operand.spellings) if isinstance(operand, _Names) else 0
        operands.append(operand)
    return operands


def _tokens(target: str) -> Iterator[tuple[str, str]]:
    """Operators and operands by turns; the first operand is a union with nothing."""
    at = 0
    while at < len(target):
        found = _TOKEN.match(target, at)
        if found is None:
            raise TargetError(target, "it cannot be read")
        yield _operator(target, found["operator"].replace(" ", "").replace("\t", ""), is_first=at == 0), found["operand"].strip(" \t")
        if found.end() == len(target):
            break
        at = found.end()


def _operator(target: str, text: str, *, is_first: bool) -> str:
    if is_first and text in {EXCEPT, INTERSECT}:
        raise TargetError(target, f"it starts with {text}; say first of which hosts, such as @all{text}...")
    if text in ({""} if is_first else {UNION, EXCEPT, INTERSECT, UNION + EXCEPT, UNION + INTERSECT}):
        return text.removeprefix(UNION) or UNION
    raise TargetError(target, f"there is no host at {text!r}")


def _read(operator: str, text: str, limit: int) -> _Operand:
    """Read one operand; raises `ValueError` with the reason."""
    if not text:
        raise ValueError(f"there is no host behind {operator!r}")
    if text.startswith("@"):
        return _read_group(operator, text[1:])
    if text.startswith("tag:"):
        return _read_tag(operator, text[4:])
    if "*" in text or "?" in text:
        return _read_pattern(operator, text)
    return _Names(operator, tuple(map(parse, _expand(text, limit))))


def _read_group(operator: str, name: str) -> _Operand:
    if name in EVERYONE:
        return _Pattern(operator, "*")
    if not GROUP.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not a group name")
    return _Group(operator, name)


def _read_tag(operator: str, text: str) -> _Tag:
    key, equals, value = text.partition("=")
    if not equals or not TAG_KEY.fullmatch(key) or not TAG_VALUE.fullmatch(value):
        raise ValueError(f"{text[:60]!r} is not a tag; write tag:key=value")
    return _Tag(operator, key, value)


def _read_pattern(operator: str, text: str) -> _Pattern:
    if not HOST.fullmatch(re.sub(r"[*?]", "x", text)):
        raise ValueError(f"{text[:60]!r}: a wildcard goes with letters, digits, '.', '_' and '-' alone")
    return _Pattern(operator, text)


def _expand(text: str, limit: int) -> list[str]:
    try:
        return expand(text, limit)
    except RangeError as error:
        raise ValueError(f"{text[:60]!r}: {error}") from None
