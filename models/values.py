"""The values that travel through the house. All are frozen: they cross threads, and change makes a copy."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from models.credentials import Credentials
from models.errors import CredentialsError
from models.states import ExecutionState


class ExecutorKind(StrEnum):
    """How a command reaches a host."""

    SSH = "ssh"
    LOCAL = "local"
    AGENT = "agent"


class HostKeyPolicy(StrEnum):
    """What is done with a host key that is not in known_hosts; a changed one is refused by the first two."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    OFF = "off"


class HubTls(StrEnum):
    """Whether the hub speaks TLS."""

    AUTO = "auto"  # beyond loopback, and wherever a certificate is given
    ON = "on"
    OFF = "off"  # on loopback alone


class OnDisconnect(StrEnum):
    """What a host does with a running command when it hears nothing of us any more."""

    END = "end"  # ends it at once
    LINGER = "linger"  # ends it some seconds later, unless somebody attached again
    DETACH = "detach"  # lets it run to its end or its timeout


class Stream(StrEnum):
    """A stream of a command's output."""

    STDOUT = "stdout"
    STDERR = "stderr"


STREAMS = tuple(Stream)  # for each attempt: a walk through an enumeration takes three times as long


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A machine, by the name the target spelled. What is None is decided by the executor's own configuration."""

    name: str
    address: str | None = None  # where to connect; the name itself unless given
    executor: ExecutorKind | None = None
    port: int | None = None
    user: str | None = None
    jump: str | None = None  # as ProxyJump spells it: [user@]host[:port], several with commas, or "none"
    identity: Path | None = None
    host_key: HostKeyPolicy | None = None
    credentials: str | None = None  # their name
    connect_timeout: float | None = None  # seconds any step until the start may take, where the run itself says so
    login: Credentials | CredentialsError | None = None  # what the name stands for, or why it stands for nothing; read by the worker
    groups: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to run: shell text for /bin/sh, or with an `interpreter` the text of a script file.

    A value of `env` written `secret:NAME` is only that name until it is sent, and so is `become_password`.
    """

    script: str
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    stdin: bytes = b""
    timeout: float | None = None  # seconds, from taking a fork slot
    on_disconnect: OnDisconnect = OnDisconnect.END
    become: str | None = None  # the user that sudo makes it run as; None: the one who logs in
    become_password: str | None = None  # `secret:NAME`; None: as the settings say
    umask: str | None = None  # octal; None: as the login, or sudo, has it
    interpreter: tuple[str, ...] = ()  # of a script file: a program, and at most one argument
    arguments: tuple[str, ...] = ()  # of a script file


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at an execution. `id` is also what marks its processes on the host (FLEETFLOW_ATTEMPT in their environment)."""

    id: uuid.UUID
    number: int = 1
    epoch: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The command ended by itself. A signal is 128 + its number."""

    exit_code: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedByHost:
    """The host ended the command, for a reason of its own that it tells us."""

    state: ExecutionState
    reason: str
    exit_code: int | None = None
