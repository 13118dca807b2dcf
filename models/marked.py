"""YAML read into plain values that remember their lines: mappings, lists, text and None.

Every word stays the text it is (`off`, `022` and `1.10` too); what it means is decided by whoever knows the field. Built from
libyaml's events, which keeps depth, size and aliases bounded, and is several times faster than PyYAML's own nodes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.errors import InventoryError

MAX_BYTES = 64 * 1024 * 1024
MAX_NODES = 5_000_000  # words, lists and mappings, each alias counted with all that it repeats
MAX_DEPTH = 12

_NULL = {"", "~", "null", "Null", "NULL"}
_TAGS = {None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "map", "seq"))}
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Mapping(dict[str, Any]):
    """A mapping; `lines` says where each key stands."""

    lines: dict[str, int]


class List(list[Any]):
    """A list; `lines` says where each item stands."""

    lines: list[int]


def read(path: Path) -> Any:
    """The content of a YAML file; raises `InventoryError` with file and line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InventoryError(path, f"larger than {MAX_BYTES // 1024**2} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise InventoryError(path, error.strerror or str(error)) from None
    try:
        return parse(path, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InventoryError(path, "this is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None


def parse(path: Path, text: str) -> Any:
    """The content of YAML text; `path` is for errors alone."""
    try:
        return _Builder(path, yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise InventoryError(path, f"this is not YAML: {reason}", line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise InventoryError(path, f"this is not YAML: {error.reason}", line) from None


def find_line(value: Any, way: Sequence[int | str]) -> int | None:
    """The line of what keys and indexes lead to, or of the nearest thing above it."""
    line = None
    for step in way:
        try:
            line = value.lines[step]
            value = value[step]
        except (AttributeError, LookupError, TypeError):
            break
    return line


class _Builder:
    def __init__(self, path: Path, events: Iterator[Any]) -> None:
        self._path = path
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def document(self) -> Any:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)
        after: Any = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._error(after, "a second document begins here; one file holds one")
        return value

    def _value(self, event: Any, depth: int) -> Any:
        before = self._nodes
        self._count(event, 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag not in _TAGS:
            raise self._error(event, f"the tag {event.tag!r} means nothing here")
        if depth > MAX_DEPTH:
            raise self._error(event, "nested too deeply")
        value = self._content(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._nodes - before
        return value

    def _content(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return None if event.value in _NULL and event.implicit[0] else event.value
        return self._mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self._list(depth)

    def _mapping(self, depth: int) -> Mapping:
        mapping = Mapping()
        mapping.lines = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key is a word, not a list, a mapping or an alias; does a { or [ lack its quotes?")
            key = event.value
            if key in mapping:
                raise self._error(event, f"{key!r} stands here and in line {mapping.lines[key]}")
            mapping.lines[key] = _line(event)
            mapping[key] = self._value(next(self._events), depth + 1)
        return mapping

    def _list(self, depth: int) -> List:
        items = List()
        items.lines = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.lines.append(_line(event))
            items.append(self._value(event, depth + 1))
        return items

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._error(event, f"nothing above is named &{event.anchor}")
        value, size = self._anchors[event.anchor]
        self._count(event, size)
        return value

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES:,} values")

    def _error(self, event: Any, reason: str) -> InventoryError:
        return InventoryError(self._path, reason, _line(event))


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
