"""What we log in with: keys, read once a process; the ssh-agent; a password."""

import base64
import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentKey, AgentSSH

from executors.ssh.certificates import SUFFIX, USER, CertificateError
from executors.ssh.route import Route
from executors.ssh.user_certificates import AgentCertificate, CertifiedKey, beside, read_file
from models.errors import UnreachableError


class _UnusableKeyError(Exception):
    """A key file that cannot be used; the message says why, and names no secret."""


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
    text = path.read_text()
    try:
        return _read_key(text, None)
    except paramiko.PasswordRequiredException:
        if passphrase is None:
            raise _UnusableKeyError(f"key file {path} is encrypted; set FLEETFLOW_SSH_PASSPHRASE") from None
    try:
        return _read_key(text, passphrase)
    except (ValueError, paramiko.SSHException):
        raise _UnusableKeyError(f"key file {path} does not open with FLEETFLOW_SSH_PASSPHRASE") from None


def _read_key(text: str, passphrase: str | None) -> paramiko.PKey:
    """The key of whatever type; PKey.from_path would take a certificate beside it in its place, and fail with a damaged one."""
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError):
            continue
    raise paramiko.SSHException("no key")


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
    for offer in usable:
        offers.add(offer.label, offer.key)
    for path in route.identity_files:
        if path.exists():
            _add_file(offers, keyring, path)
    offers.add_doubts(route.user)
    return offers


def _add_file(offers: Offers, keyring: Keyring, path: Path) -> None:
    try:
        offers.add(str(path), keyring.load(path))
    except _UnusableKeyError as error:
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
        with contextlib.suppress(_UnusableKeyError):
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
