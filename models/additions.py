"""hosts.d in FLEETFLOW_HOME: the inventory files that `host add` and `host import` write."""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from models import hostsfile, marked
from models.errors import InventoryError, NotFoundError, UsageError
from models.hostsfile import HostEntry, HostsFile, Source
from models.inventory import Inventory, paths
from models.ranges import LIMIT, RangeError, expand, fold, split

_HEADER = "# Written by `fleetflow host add` and `fleetflow host import`, which do not keep comments; write by hand in hosts.yaml.\n"


_UNRECORDED: AbstractContextManager[object] = nullcontext()
Record = AbstractContextManager[object]  # of a change: entered when it is known to be right, left when it is made


def add(home: Path, file: str, entries: Mapping[str, HostEntry], *, replace: bool = False, record: Record = _UNRECORDED) -> Path:
    """Write new hosts (names or ranges) to a file of hosts.d, all or none of them; raises `UsageError` for known names.

    `replace` forgets what the file held before.
    """
    with _locked(home) as folder:
        path = folder / file
        others = [hostsfile.read(found) for found in paths(home) if found != path]
        before = hostsfile.read(path) if path.exists() and not replace else None
        _refuse_known(Inventory.of([*others, before] if before else others), entries)
        content = before.content if before else HostsFile()
        text = _check(path, content.model_copy(update={"hosts": {**content.hosts, **entries}}), others)
        with record:
            _write(path, text)
    return path


def remove(home: Path, names: Sequence[str], *, record: Record = _UNRECORDED) -> list[Path]:
    """Take hosts out of hosts.d, all or none of them, and tell from which files; raises `UsageError` for those that stand elsewhere."""
    with _locked(home) as folder:
        sources = [hostsfile.read(path) for path in paths(home)]
        written = [source for source in sources if source.path.parent == folder]
        _refuse_others(Inventory.of(sources), written, names)
        gone = set(names)
        changed = {source.path: _without(source, gone) for source in written}
        contents = {path: content for path, content in changed.items() if content is not None}
        rest = [source for source in sources if source.path not in contents]
        texts = {path: _check(path, content, rest) for path, content in contents.items()}
        with record:
            for path, text in texts.items():
                _write(path, text)
    return list(texts)


@contextmanager
def _locked(home: Path) -> Iterator[Path]:
    """The folder, which nobody else changes meanwhile."""
    folder = home / "hosts.d"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InventoryError(folder, error.strerror or str(error)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def _refuse_known(inventory: Inventory, entries: Mapping[str, HostEntry]) -> None:
    new: set[str] = set()
    for pattern in entries:
        for name in _expand(pattern):
            if name in inventory.places:
                raise UsageError(f"host {name!r} is known already: {inventory.source(name)}")
            if name in new:
                raise UsageError(f"host {name!r} is named twice")
            new.add(name)


def _expand(pattern: str) -> list[str]:
    try:
        return [name for part in split(pattern) for name in expand(part, LIMIT)]
    except RangeError as error:
        raise UsageError(f"{pattern[:60]!r}: {error}") from None


def _refuse_others(inventory: Inventory, written: Sequence[Source], names: Sequence[str]) -> None:
    ours = {source.place("hosts", pattern) for source in written for pattern in source.content.hosts}
    for name in names:
        if name not in inventory.places:
            raise NotFoundError("host", repr(name)[1:-1])
        for place in inventory.places[name]:
            if place not in ours:
                raise UsageError(f"host {name!r} stands in {place}, which people write; remove it there")


def _without(source: Source, gone: set[str]) -> HostsFile | None:
    """The file without these hosts; None when it names none of them."""
    hosts: dict[str, HostEntry | None] = {}
    for pattern, entry in source.content.hosts.items():
        names = _expand(pattern)
        left = [name for name in names if name not in gone]
        if left:
            hosts[pattern if len(left) == len(names) else fold(left)] = entry
    return None if hosts == source.content.hosts else source.content.model_copy(update={"hosts": hosts})


def _check(path: Path, content: HostsFile, others: Sequence[Source]) -> str:
    """The text of the file, once it is known to be right beside the others."""
    text = _HEADER + hostsfile.dump(content)
    Inventory.of([*others, hostsfile.check(path, marked.parse(path, text))])
    return text


def _write(path: Path, text: str) -> None:
    """Put the whole file in place at once; a reader sees the old or the new one."""
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".new", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                temporary.unlink()
        raise InventoryError(path, error.strerror or str(error)) from None
