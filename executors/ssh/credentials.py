"""What we log in with: keys, read once a process; the ssh-agent; a password."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentSSH

from executors.ssh.route import Route
from models.errors import UnreachableError


class _UnusableKeyError(Exception):
    """A key file that cannot be used; the message says why, and names no secret."""


@dataclass(frozen=True)
class Offer:
    """A key to log in with, and how messages call it."""

    label: str
    key: paramiko.PKey


@dataclass
class Offers:
    """The keys to be offered, in order, and the notes on those that cannot be."""

    keys: list[Offer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, key: paramiko.PKey) -> None:
        if all(offer.key.asbytes() != key.asbytes() for offer in self.keys):
            self.keys.append(Offer(label, key))


class Keyring:
    """Private keys by path. Each is parsed once, however many connections ask for it at the same time."""

    def __init__(self, passphrase: str | None) -> None:
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self._keys: dict[Path, tuple[tuple[int, int], paramiko.PKey | _UnusableKeyError]] = {}

    def load(self, path: Path) -> paramiko.PKey:
        """The key in a file; raises `_UnusableKeyError`."""
        with self._lock:
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:
            found = self._load(path)
        if isinstance(found, _UnusableKeyError):
            raise found
        return found

    def _load(self, path: Path) -> paramiko.PKey | _UnusableKeyError:
        try:
            stat = path.stat()
        except OSError:
            return _UnusableKeyError(f"key file {path} does not exist")
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._keys.get(path)
        if known is None or known[0] != stamp:
            # a failure is kept too: a wrong passphrase costs 0.1 s of key derivation, for every host
            known = self._keys[path] = (stamp, _parse(path, self._passphrase))
        return known[1]


def _parse(path: Path, passphrase: str | None) -> paramiko.PKey | _UnusableKeyError:
    try:
        return _decrypt(path, passphrase)
    except OSError as error:
        return _UnusableKeyError(f"key file {path} cannot be read ({error.strerror})")
    except _UnusableKeyError as error:
        return error
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
        return _UnusableKeyError(f"key file {path} is no ed25519, ECDSA or RSA private key")


def _decrypt(path: Path, passphrase: str | None) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except TypeError:  # this is how it says that the key is encrypted
        if passphrase is None:
            raise _UnusableKeyError(f"key file {path} is encrypted; set FLEETFLOW_SSH_PASSPHRASE") from None
    try:
        secret: Any = passphrase.encode()  # the stubs want str, which it refuses
        return paramiko.PKey.from_path(path, secret)
    except (ValueError, TypeError, paramiko.SSHException):
        raise _UnusableKeyError(f"key file {path} does not open with FLEETFLOW_SSH_PASSPHRASE") from None


class Agent:
    """The keys of an ssh-agent, while its socket is open."""

    def __init__(self, path: str | None) -> None:
        self._agent = _AgentAt(path) if path else None

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        if self._agent is not None:
            self._agent.close()

    def offers(self) -> list[Offer]:
        keys = self._agent.get_keys() if self._agent is not None else ()
        return [Offer(f"agent key {key.comment or key.fingerprint}", key) for key in keys]


class _AgentAt(AgentSSH):
    """An ssh-agent by the path of its socket: paramiko's own knows SSH_AUTH_SOCK alone, and waits for ever."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_AGENT_PATIENCE)
        try:
            connection.connect(path)
            self._ask(connection)
        except (OSError, paramiko.SSHException):
            connection.close()  # no agent there, or none that answers: as without one

    def _ask(self, connection: socket.socket) -> None:
        read_keys: Any = super()._connect  # type: ignore[misc]  # left out of the stubs
        read_keys(connection)

    def close(self) -> None:
        close: Any = super()._close  # type: ignore[misc]  # left out of the stubs
        close()


def gather(route: Route, keyring: Keyring, agent: Agent) -> Offers:
    """All keys to offer to a host, best first; raises `UnreachableError` if the one that was asked for does not exist."""
    offers = Offers()
    if route.identity is not None:
        _add_file(offers, keyring, route.identity)
    listed = _public_keys((route.identity, *route.identity_files))
    held = agent.offers()
    chosen = [offer for offer in held if offer.key.asbytes() in listed]
    for offer in chosen if route.identities_only else (*chosen, *held):
        offers.add(offer.label, offer.key)
    for path in route.identity_files:
        if path.exists():
            _add_file(offers, keyring, path)
    return offers


def _add_file(offers: Offers, keyring: Keyring, path: Path) -> None:
    try:
        offers.add(str(path), keyring.load(path))
    except _UnusableKeyError as error:
        offers.notes.append(str(error))


def _public_keys(paths: Iterable[Path | None]) -> set[bytes]:
    """The public halves beside key files, by which an agent's key is recognised as one of them."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if path is not None:
                found.add(base64.b64decode(Path(f"{path}.pub").read_text().split()[1]))
    return found


def require(host: str, path: Path) -> None:
    """Raise `UnreachableError` unless a key file that was asked for by name is there."""
    if not path.exists():
        raise UnreachableError(host, f"key file {path} does not exist")


_AGENT_PATIENCE = 5.0  # seconds
