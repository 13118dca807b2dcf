"""The format of hosts.yaml and hosts.d/*.yaml: the words that may stand there, and what each may hold."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from models import marked
from models.errors import InventoryError, UsageError
from models.names import BLOCK, GROUP, HOST, TAG_KEY, TAG_VALUE, USER, is_ip
from models.ranges import split
from models.values import ExecutorKind, HostKeyPolicy

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml: several times as fast


def _fits(pattern: re.Pattern[str], kind: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text[:60]!r} is not {kind}")
        return text

    return AfterValidator(check)


def _check_address(address: str) -> str:
    plain = address.replace("{name}", "x")
    if not HOST.fullmatch(plain) and not is_ip(plain):
        raise ValueError(f"{address[:60]!r} is not an address; it is a name or an IP address, and may hold {{name}}")
    return address


def _check_identity(text: str) -> str:
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {text[:60]!r}") from None
    if not text or not text.isprintable():
        raise ValueError("this is not the name of a file")
    return text


def _check_group(name: str) -> str:
    if name == "all":
        raise ValueError("'all' is no group: @all is every host of the inventory")
    return name


def _split_text(value: object) -> object:
    if value is None:
        return []
    return [part.strip() for part in split(value)] if isinstance(value, str) else value


_JUMP = re.compile(r"(ssh://)?[A-Za-z0-9_\[][A-Za-z0-9_.@:%\[\]+-]*(,(ssh://)?[A-Za-z0-9_\[][A-Za-z0-9_.@:%\[\]+-]*)*")


def is_jump(text: str) -> bool:
    """Whether this spells jump hosts, or none."""
    return _JUMP.fullmatch(text) is not None


_TEXT_OR_LIST = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_WORD = WithJsonSchema({"type": ["string", "number", "boolean"]})

GroupName = Annotated[str, _fits(GROUP, "a group name"), AfterValidator(_check_group)]
TagKey = Annotated[str, _fits(TAG_KEY, "a tag name")]
TagValue = Annotated[str, _fits(TAG_VALUE, "a tag value (letters, digits and ._:/+@=-)"), _WORD]


class Reach(BaseModel):
    """How a host is reached. What is not said is decided by the host's groups, then `defaults`, then settings and ~/.ssh/config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Annotated[str, AfterValidator(_check_address)] | None = Field(
        None, description="name or IP address to connect to, with {name} for the host's name; default: the name"
    )
    user: Annotated[str, _fits(USER, "a user name")] | None = Field(None, description="user to log in as over SSH")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="SSH port")
    executor: ExecutorKind | None = Field(None, description="how commands reach the host; default: ssh, on localhost local")
    jump: Annotated[str, _fits(_JUMP, "[user@]host[:port], several with commas, or none")] | None = Field(
        None, description="jump hosts as ProxyJump spells them, nearest first, or none; hosts of the inventory may be named"
    )
    identity: Annotated[str, AfterValidator(_check_identity)] | None = Field(None, description="SSH private key to offer first; ~ is $HOME")
    host_key: HostKeyPolicy | None = Field(None, description="what is done with a host key that is not in known_hosts")
    credentials: Annotated[str, _fits(BLOCK, "the name of a block (small letters, digits and dashes)")] | None = Field(
        None, description="Prefect block of SSH credentials that the worker logs in with"
    )
    tags: Mapping[TagKey, TagValue] = Field({}, description="tags, for targets such as tag:dc=ams")


class HostEntry(Reach):
    """A host, or all hosts of a range."""

    groups: Annotated[tuple[GroupName, ...], BeforeValidator(_split_text), _TEXT_OR_LIST] = Field(
        (), description="groups that the host is in"
    )


class GroupEntry(Reach):
    """A group: its hosts, and how they are reached unless they say otherwise."""

    hosts: Annotated[tuple[str, ...], BeforeValidator(_split_text), _TEXT_OR_LIST] = Field(
        (), description="names and ranges of hosts; standing here makes a host known"
    )


class HostsFile(BaseModel):
    """A file of hosts: hosts.yaml or hosts.d/*.yaml in FLEETFLOW_HOME."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="fleetflow hosts")

    hosts: dict[str, HostEntry | None] = Field({}, description="hosts by name or range, such as web[01-20]")
    groups: dict[GroupName, GroupEntry | None] = Field({}, description="groups by name")
    defaults: Reach | None = Field(None, description="how all hosts of the inventory are reached unless host or group say otherwise")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands."""

    path: Path
    line: int | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)


@dataclass(frozen=True, slots=True)
class Source:
    """A hosts file as it was read."""

    path: Path
    content: HostsFile
    raw: Any  # as marked.read gives it

    def place(self, *way: int | str) -> Place:
        return Place(self.path, marked.find_line(self.raw, way))

    def error(self, reason: str, *way: int | str) -> InventoryError:
        return InventoryError(self.path, reason, self.place(*way).line)


def read(path: Path) -> Source:
    """Read and check one file; raises `InventoryError` with file and line."""
    return check(path, marked.read(path))


def check(path: Path, raw: Any) -> Source:
    """Check the content of a file; raises `InventoryError` with file and line."""
    if not isinstance(raw, dict | None):
        raise InventoryError(path, "the file must be a mapping with the keys hosts, groups and defaults", 1)
    try:
        cleaned = {key: value for key, value in (raw or {}).items() if value is not None}
        return Source(path, HostsFile.model_validate(cleaned), raw)
    except ValidationError as error:
        first = error.errors()[0]
        way = tuple(part for part in first["loc"] if part != "[key]")
        raise InventoryError(path, _reason(first["type"], first["msg"], way), marked.find_line(raw, way)) from None


def entry(values: Mapping[str, object]) -> HostEntry:
    """Check what somebody says of a host elsewhere; raises `UsageError`."""
    try:
        return HostEntry.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(_reason(first["type"], first["msg"], first["loc"])) from None


def dump(content: HostsFile) -> str:
    """The text of a file with this content."""
    plain = content.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return yaml.dump(plain, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=140)


def schema() -> str:
    """The JSON schema of a file, for editors; docs/hosts.schema.json is this text."""
    return json.dumps(HostsFile.model_json_schema(), indent=2) + "\n"


def _reason(kind: str, message: str, way: tuple[int | str, ...]) -> str:
    where = ".".join(repr(part)[1:-1] if isinstance(part, str) else str(part + 1) for part in way)
    if kind == "extra_forbidden":
        return f"{where}: there is no such key; known are {', '.join(_known_keys(way))}"
    return f"{where}: {message.removeprefix('Value error, ')}"


def _known_keys(way: tuple[int | str, ...]) -> list[str]:
    model = {"hosts": HostEntry, "groups": GroupEntry, "defaults": Reach}.get(str(way[0])) if len(way) > 1 else None
    return list((model or HostsFile).model_fields)
