"""Reads lists of hosts that other programs keep: ssh config, /etc/hosts, and plain lists; Ansible's is in `fleetflow.ansible`."""

import re
from collections.abc import Iterable
from pathlib import Path

from fleetflow import ansible, sshhosts
from fleetflow.formats import Format
from fleetflow.hostlist import HostList
from models.errors import UsageError
from models.names import is_ip, parse
from models.ranges import RangeError, expand, split


def read(path: Path, format_: Format, groups: Iterable[str] = ()) -> HostList:
    """Read a file; raises `UsageError` with its line."""
    text = _text(path)
    if format_ is Format.GUESS and re.search(r"^(---|[\w.-]+:\s*$)", text, re.MULTILINE):
        raise UsageError(f"{path}: looks like YAML; of Ansible's inventories only the INI form is read")
    format_ = _guess(text) if format_ is Format.GUESS else format_
    found = HostList(path, format_)
    readers = {Format.SSH: sshhosts.read, Format.HOSTS: _read_hosts, Format.ANSIBLE: ansible.read, Format.LIST: _read_list}
    readers[format_](found, text)
    for values in found.hosts.values():
        already = values.get("groups", ())
        if groups or already:
            values["groups"] = sorted({*groups, *(already if isinstance(already, Iterable) else ())})
    return found


def file_name(path: Path) -> str:
    """The file in hosts.d that keeps what this one brought."""
    return f"import-{re.sub(r'[^A-Za-z0-9_.-]+', '-', path.name)[:100]}.yaml"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: this is not text in UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def _guess(text: str) -> Format:
    lines = [line for raw in text.splitlines() if (line := raw.strip()) and line[0] not in "#;"]
    if any(re.match(r"(?i)(host|match|include)[\s=]", line) for line in lines):
        return Format.SSH
    if any(re.match(r"\[[\w.-]+(:\w+)?\]$|[^#]*\sansible_\w+\s*=", line) for line in lines):
        return Format.ANSIBLE
    if lines and all(is_ip(line.split()[0]) and len(line.split()) > 1 for line in lines):
        return Format.HOSTS
    return Format.LIST


def _lines(text: str) -> Iterable[tuple[int, str]]:
    """What stands on each line before a comment."""
    for number, raw in enumerate(text.splitlines(), 1):
        if line := raw.partition("#")[0].strip():
            yield number, line


def _read_list(found: HostList, text: str) -> None:
    """Names, ranges and `user@name:port`, with blanks or commas between them."""
    for number, line in _lines(text):
        for word in (word for part in line.split() for word in split(part) if word):
            try:
                spellings = [parse(name) for name in expand(word)]
            except (RangeError, ValueError) as error:
                raise found.error(str(error), number) from None
            for spelled in spellings:
                values = {"user": spelled.user, "port": spelled.port}
                found.add(spelled.host, {key: value for key, value in values.items() if value}, number)


_NOT_MACHINES = re.compile(r"127\.|0\.|255\.|::1$|::$|f[ef]0[0-9a-f]*:|localhost")


def _read_hosts(found: HostList, text: str) -> None:
    """An address and its names; the first name is taken, and of several addresses the first."""
    for number, line in _lines(text):
        address, *names = line.split()
        if not names or not is_ip(address):
            raise found.error("a line is an address and its names", number)
        if _NOT_MACHINES.match(address.lower()):
            continue
        if names[0] in found.hosts:
            found.left_out.append(f"line {number}: {names[0]} has an address already")
            continue
        found.add(names[0], {"address": address}, number)
