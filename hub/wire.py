"""The wire protocol of agents, version 1: what comes in is checked, what goes out is put together.

`POST /agent/v1/sync` is heartbeat, report and delivery in one; docs/agents.md tells the whole.
"""

import base64
import binascii
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.reports import Ended, Printed, Refusal, Report
from models.values import Stream

VERSION = 1
BODY_LIMIT = 1024 * 1024  # bytes
_ITEMS = 2000  # of one kind in one body
_TEXT = 500  # characters of a reason
_WORD = 100  # characters of what identifies something
_OBJECT = 16 * 1024  # bytes of facts or telemetry
_SMALL = _OBJECT // 16  # bytes that are no more than `_OBJECT`, however they are spelled
_LONGEST_WAIT = 30.0  # seconds that a poll is held
_ENDS = frozenset({"timed_out", "canceled", "killed", "rebooted", "gone"})
_REPORTED = frozenset({"held", "accepted", "refused", "output", "done", "known"})
_STATES = frozenset({"held", "running", "done", "refused"})
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CREDENTIAL = re.compile(r"Bearer ([0-9a-f-]{36})\.([0-9a-f]{64})", re.ASCII)


class WireError(Exception):
    """What is no message of this protocol."""


class VersionError(WireError):
    """A message of another version of this protocol."""


@dataclass(frozen=True, slots=True)
class Join:
    """The request of an agent that wants to be one."""

    token: str
    name: str
    machine: str
    version: str
    facts: Mapping[str, Any]


@dataclass(slots=True)
class Sync:
    """What an agent says."""

    session: str
    boot: str
    machine: str | None  # where it says what it knows
    generation: int
    offered: str | None  # the SHA-256 of the credential that it will take next
    version: str
    free: int
    wait: float
    again: bool
    facts: Mapping[str, Any] | None
    telemetry: Mapping[str, Any] | None
    report: Report

    @property
    def is_poll(self) -> bool:
        """Whether it came by the connection that polls, on which alone telemetry rides; there is another one while a poll is held."""
        return self.telemetry is not None


@dataclass(slots=True)
class Answer:
    """What an agent is told."""

    commands: list[bytes] = field(default_factory=list)
    go: list[uuid.UUID] = field(default_factory=list)
    cancels: list[uuid.UUID] = field(default_factory=list)
    acks: list[uuid.UUID] = field(default_factory=list)
    noted: list[uuid.UUID] = field(default_factory=list)
    ask: list[uuid.UUID] = field(default_factory=list)
    stored: Mapping[uuid.UUID, tuple[int, int]] = field(default_factory=dict)
    tell: bool = False
    rotate: bool = False  # make a new credential, and say its SHA-256
    taken: str | None = None  # this credential may be used
    identity: Mapping[str, object] | None = None  # who it is, where it was held for another
    held: float = 0.0  # seconds
    waited: float = 0.0  # seconds that a report waited for the word to go

    def encode(self) -> bytes:
        """The body. The commands are JSON already."""
        plain: dict[str, object] = {"v": VERSION, "held": round(self.held, 3), "poll": 0}
        for name in ("go", "cancels", "acks", "noted", "ask"):
            if ids := getattr(self, name):
                plain[name] = [str(one) for one in ids]
        if self.stored:
            plain["stored"] = [{"id": str(one), "stdout": out, "stderr": err} for one, (out, err) in self.stored.items()]
        plain |= {name: value for name in ("tell", "rotate", "taken", "identity") if (value := getattr(self, name))}
        text = json.dumps(plain).encode()
        return text[:-1] + b',"commands":[' + b",".join(self.commands) + b"]}" if self.commands else text


def command(attempt: uuid.UUID, body: bytes) -> bytes:
    """A command for one attempt, out of the body that it shares with others."""
    return b'{"id":"%s",%s' % (str(attempt).encode(), body[1:])


def read_credential(header: str) -> tuple[uuid.UUID, str]:
    """Who says that it is who; raises `WireError`."""
    found = _CREDENTIAL.fullmatch(header)
    if not found:
        raise WireError("no credential")
    return uuid.UUID(found[1]), found[2]


def read_join(raw: bytes) -> Join:
    """Check a request to join; raises `WireError`."""
    said = _object(raw)
    facts = _facts(said, "facts", len(raw)) or {}
    return Join(_word(said, "token"), _word(said, "name", 253), _word(said, "machine"), _word(said, "version"), facts)


def read_sync(agent: uuid.UUID, raw: bytes) -> Sync:
    """Check what an agent says; raises `WireError`."""
    said = _object(raw)
    wait = said.get("wait", 0)
    if not isinstance(wait, int | float) or not 0 <= wait < float("inf"):
        raise WireError("wait is no number of seconds")
    return Sync(
        session=_word(said, "session"),
        boot=_word(said, "boot"),
        machine=_word(said, "machine") if "machine" in said else None,
        generation=_number(said, "generation"),
        offered=_offered(said),
        version=_word(said, "version"),
        free=_number(said, "free", 0),
        wait=min(float(wait), _LONGEST_WAIT),
        again=said.get("again") is True,
        facts=_facts(said, "facts", len(raw)),
        telemetry=_facts(said, "telemetry", len(raw)),
        report=_report(agent, said) if said.keys() & _REPORTED else Report(agent),
    )


def _report(agent: uuid.UUID, said: Mapping[str, Any]) -> Report:
    return Report(
        agent,
        held=[_id(one) for one in _list(said, "held")],
        accepted=[_id(one) for one in _list(said, "accepted")],
        refused=[_refusal(one) for one in _objects(said, "refused")],
        output=[_printed(one) for one in _objects(said, "output")],
        done=[_ended(one) for one in _objects(said, "done")],
        known=[_known(one) for one in _objects(said, "known")] if "known" in said else None,
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON") from None
    if not isinstance(said, dict):
        raise WireError("the body is no object")
    if said.get("v") != VERSION:
        raise VersionError(f"this hub speaks version {VERSION} of the protocol; replace the agent's program")
    return said


def _word(said: Mapping[str, Any], name: str, most: int = _WORD) -> str:
    word = said.get(name)
    if not isinstance(word, str) or not 0 < len(word) <= most or not word.isprintable():
        raise WireError(f"{name} is missing, or is not 1 to {most} printable characters")
    return word


def _offered(said: Mapping[str, Any]) -> str | None:
    digest = said.get("next")
    if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise WireError("next is no SHA-256")
    return digest


def _number(said: Mapping[str, Any], name: str, default: int | None = None) -> int:
    number = said.get(name, default)
    if type(number) is not int or not 0 <= number < 2**62:
        raise WireError(f"{name} is missing, or no number")
    return number


def _list(said: Mapping[str, Any], name: str) -> list[Any]:
    found = said.get(name, [])
    if not isinstance(found, list) or len(found) > _ITEMS:
        raise WireError(f"{name} is no list, or longer than {_ITEMS}")
    return found


def _objects(said: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    for one in _list(said, name):
        if not isinstance(one, dict):
            raise WireError(f"{name} holds something else than objects")
        yield one


def _facts(said: Mapping[str, Any], name: str, size: int) -> Mapping[str, Any] | None:
    """An object, out of a body of so many bytes: what a small one holds is not measured."""
    found = said.get(name)
    if found is not None and (not isinstance(found, dict) or (size > _SMALL and len(json.dumps(found)) > _OBJECT)):
        raise WireError(f"{name} is no object, or longer than {_OBJECT} bytes")
    return found


def _id(value: object) -> uuid.UUID:
    try:
        return uuid.UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise WireError("an id is no UUID") from None


def _text(value: object) -> str | None:
    """A host's own words, short and without what a terminal would obey; a lone surrogate no database takes."""
    if not isinstance(value, str):
        return None
    return "".join(character if character.isprintable() else " " for character in value[:_TEXT]).strip() or None


def _refusal(said: Mapping[str, Any]) -> Refusal:
    return Refusal(_id(said.get("id")), _text(said.get("reason")) or "its agent refused it", said.get("unknown") is True)


def _printed(said: Mapping[str, Any]) -> Printed:
    try:
        data = base64.b64decode(said.get("data_b64", ""), validate=True)
        stream = Stream(str(said.get("stream")))
    except (binascii.Error, ValueError, TypeError):
        raise WireError("a piece of output cannot be read") from None
    gap = _number(said, "gap", 0)
    if not data and not gap:
        raise WireError("a piece of output is empty")
    return Printed(_id(said.get("id")), stream, _number(said, "offset"), gap, data)


def _ended(said: Mapping[str, Any]) -> Ended:
    code, ended = said.get("exit_code"), said.get("ended")
    if code is not None and (type(code) is not int or not 0 <= code <= 255):
        raise WireError("exit_code is no exit code")
    if ended is not None and ended not in _ENDS:
        raise WireError("ended is no known reason")
    if code is None and ended is None:
        ended = "gone"
    return Ended(_id(said.get("id")), code, ended, _text(said.get("error")), _number(said, "stdout", 0), _number(said, "stderr", 0))


def _known(said: Mapping[str, Any]) -> tuple[uuid.UUID, str]:
    state = said.get("state")
    if state not in _STATES:
        raise WireError("a known attempt has no known state")
    return _id(said.get("id")), state
