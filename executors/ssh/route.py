"""The way to a host: all that decides which connection serves it."""

import socket
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from models.credentials import Credentials
from models.values import HostKeyPolicy


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who logs in where and how. Equal routes share connections."""

    address: str
    port: int
    user: str
    key_name: str  # the name under which known_hosts lists the host
    key_port: int
    policy: HostKeyPolicy
    user_known_hosts: tuple[Path, ...]
    global_known_hosts: tuple[Path, ...]
    hash_known_hosts: bool
    key_algorithms: str | None  # HostKeyAlgorithms as written
    login: Credentials | None  # in the place of all keys and passwords that are configured
    identity: Path | None  # set for this host or for fleetflow: offered first, and it must exist
    identity_files: tuple[Path, ...]  # from ~/.ssh/config, or the usual ones: offered if they exist
    certificate_files: tuple[Path, ...]  # CertificateFile; empty: those beside the keys
    identities_only: bool
    agent: str | None  # the socket of the ssh-agent
    methods: frozenset[str]  # those of METHODS that may be used
    via: "Route | None"  # the jump host
    proxy_command: str | None
    family: socket.AddressFamily
    bind_address: str | None
    connect_timeout: float | None = field(compare=False)  # seconds, of the run or of ConnectTimeout; None: fleetflow's own setting holds
    probe_seconds: int | None  # of ServerAliveInterval
    probes: int | None  # of ServerAliveCountMax

    @cached_property
    def _hash(self) -> int:
        return hash((self.address, self.port, self.user, self.identity))

    def __hash__(self) -> int:
        """Kept: a route is looked up several times a run, and paths take their time."""
        return self._hash

    @property
    def where(self) -> str:
        """Address and port, as messages show them."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


METHODS = frozenset({"publickey", "password", "keyboard-interactive"})
