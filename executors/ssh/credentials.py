"""What we log in with: keys, read once a process; the ssh-agent; a password."""

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentKey, AgentSSH

from executors.ssh import private_keys
from executors.ssh.certificates import SUFFIX, USER, CertificateError
from executors.ssh.private_keys import UnusableKeyError
from executors.ssh.route import Route
from executors.ssh.user_certificates import AgentCertificate, CertifiedKey, beside, read_file
from models.credentials import Credentials
from models.errors import UnreachableError


@dataclass(frozen=True)
class Offer:
    """A key to log in with, and how messages call it."""

    label: str
    key: paramiko.PKey

    @property
    def blob(self) -> bytes:
        """What the server is shown: the public key or the certificate."""
        shown: Any = getattr(self.key, "public_blob", None)
        return bytes(shown.key_blob) if shown is not None else self.key.asbytes()


@dataclass
class Offers:
    """The keys to be offered, in order, and the notes on those that cannot be."""

    keys: list[Offer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, key: paramiko.PKey) -> None:
        added = Offer(label, key)
        if all(offer.blob != added.blob for offer in self.keys):
            self.keys.append(added)

    def add_doubts(self, user: str) -> None:
        """Note which certificates speak against themselves: they are offered all the same, for our clock may be wrong."""
        for offer in self.keys:
            if isinstance(offer.key, CertifiedKey | AgentCertificate) and (why := offer.key.certificate.why_not_user(user)):
                self.notes.append(f"{offer.label}: {why}")


_Found = paramiko.PKey | UnusableKeyError


class Keyring:
    """Private keys. Each is parsed once, however many connections ask for it at the same time."""

    def __init__(self, passphrase: str | None) -> None:
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._locks: dict[Path | Credentials, threading.Lock] = {}
        self._files: dict[Path, tuple[tuple[int, int], _Found]] = {}
        self._texts: dict[Credentials, _Found] = {}

    def load(self, path: Path) -> paramiko.PKey:
        """The key in a file; raises `UnusableKeyError`."""
        with self._lock_of(path):
            return _usable(self._load(path))

    def open(self, credentials: Credentials) -> paramiko.PKey:
        """The key that stands in credentials; raises `UnusableKeyError`."""
        with self._lock_of(credentials):
            found = self._texts.get(credentials)
            if found is None:
                self._forget_outdated(credentials.name)
                found = self._texts[credentials] = _attempt(partial(private_keys.read_text, credentials))
            return _usable(found)

    def _load(self, path: Path) -> _Found:
        try:
            stat = path.stat()
        except OSError:
            return UnusableKeyError(f"key file {path} does not exist")
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            known = self._files[path] = (stamp, _attempt(partial(private_keys.read_file, path, self._passphrase)))
        return known[1]

    def _lock_of(self, what: Path | Credentials) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(what, threading.Lock())

    def _forget_outdated(self, name: str) -> None:
        """Credentials that have changed leave nothing of their former key behind."""
        with self._lock:
            for known in [known for known in self._texts if known.name == name]:
                del self._texts[known]
                self._locks.pop(known, None)


def _attempt(read: Callable[[], paramiko.PKey]) -> _Found:
    """The key, or why there is none: that is kept too, since a wrong passphrase costs 0.1 s of key derivation for every host."""
    try:
        return read()
    except UnusableKeyError as error:
        return error


def _usable(found: _Found) -> paramiko.PKey:
    if isinstance(found, UnusableKeyError):
        raise found
    return found


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
        return sorted(filter(None, map(_offer_held, keys)), key=lambda offer: not isinstance(offer.key, AgentCertificate))


def _offer_held(key: AgentKey) -> Offer | None:
    if not key.name.endswith(SUFFIX):
        return Offer(f"agent key {key.comment or key.fingerprint}", key)
    try:
        held = AgentCertificate(key)
    except CertificateError:
        return None  # of a type that we cannot use
    return Offer(f"agent certificate {held.comment or held.certificate.name}", held) if held.certificate.role == USER else None


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
    """All keys to offer to a host, best first; raises `UnreachableError` if the one that was asked for does not exist.

    Certificates come before plain keys, and those that lie beside keys count only when CertificateFile names none (as in
    pubkey_prepare of OpenSSH's sshconnect2.c).
    """
    offers = Offers()
    paths = [path for path in (route.identity, *route.identity_files) if path is not None]
    certificates = route.certificate_files or beside(paths)
    listed = _public_keys([*(path.with_name(f"{path.name}.pub") for path in paths), *certificates])
    held = agent.offers()
    chosen = [offer for offer in held if offer.blob in listed]
    usable = chosen if route.identities_only else [*chosen, *held]
    for path in certificates:
        _add_certificate(offers, path, partial(_find_private, usable, keyring, paths))
    if route.identity is not None:
        _add_file(offers, keyring, route.identity)
    if route.login is not None and route.login.key is not None:
        _add(offers, f"the key of credentials {route.login.name!r}", partial(keyring.open, route.login))
    for offer in usable:
        offers.add(offer.label, offer.key)
    for path in route.identity_files:
        if path.exists():
            _add_file(offers, keyring, path)
    offers.add_doubts(route.user)
    return offers


def _add_file(offers: Offers, keyring: Keyring, path: Path) -> None:
    _add(offers, str(path), partial(keyring.load, path))


def _add(offers: Offers, label: str, read: Callable[[], paramiko.PKey]) -> None:
    try:
        offers.add(label, read())
    except UnusableKeyError as error:
        offers.notes.append(str(error))


def _add_certificate(offers: Offers, path: Path, find_private: Callable[[bytes], paramiko.PKey | None]) -> None:
    try:
        certificate = read_file(path)
    except CertificateError as error:
        offers.notes.append(str(error))
        return
    key = find_private(certificate.public)
    if key is None:
        offers.notes.append(f"certificate {path} cannot be used: none of the keys that we may use fits it")
    else:
        offers.add(f"certificate {path}", CertifiedKey(key, certificate))


def _find_private(held: Iterable[Offer], keyring: Keyring, paths: Iterable[Path], public: bytes) -> paramiko.PKey | None:
    """The private half of a public key: an agent needs no passphrase for it."""
    for offer in held:
        if offer.blob == public:
            return offer.key
    for path in paths:
        with contextlib.suppress(UnusableKeyError):
            if (key := keyring.load(path)).asbytes() == public:
                return key
    return None


def _public_keys(paths: Iterable[Path]) -> set[bytes]:
    """What stands in public key files, by which an agent's key is recognised as one of them."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found.add(base64.b64decode(path.read_text().split()[1]))
    return found


def require(host: str, path: Path) -> None:
    """Raise `UnreachableError` unless a key file that was asked for by name is there."""
    if not path.exists():
        raise UnreachableError(host, f"key file {path} does not exist")


_AGENT_PATIENCE = 5.0  # seconds
