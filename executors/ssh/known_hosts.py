"""Whether a host's key is the one that known_hosts has for it, judged as OpenSSH judges (check_host_key in sshconnect.c)."""

import base64
import fcntl
import hashlib
import hmac
import os
import shlex
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from paramiko import PKey

from executors.ssh.certificates import Certificate, type_of
from executors.ssh.known_hosts_file import AUTHORITY, REVOKED, Entry, KnownHostsFile
from models.errors import HostKeyError

_SSH_PORT = 22
_UNWRITABLE = frozenset("@!?*#[]|'\"\\, \t\r\n")  # such a name would be read back as something else


class Standing(StrEnum):
    """What known_hosts says about a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"  # nothing is known about the host
    NEW_TYPE = "new type"  # the host is known by keys of other types; OpenSSH treats this as a changed key
    CHANGED = "changed"  # the host has another key of this type
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A standing, and the line that decided; there is none for a host not known, or a key just added."""

    standing: Standing
    entry: Entry | None = None


class KnownHosts:
    """The files of one user and those of the machine; they are read again when they change. May be used from several threads.

    `name` is the host as OpenSSH looks it up: its address after HostName, or its HostKeyAlias with port 22.
    """

    def __init__(self, user_files: Sequence[Path], global_files: Sequence[Path] = (), *, hash_names: bool = False) -> None:
        self._files = [KnownHostsFile(path) for path in (*user_files, *global_files)]
        self._own = self._files[0] if user_files else None
        self._hash_names = hash_names
        self._lock = threading.Lock()

    def check(self, name: str, port: int, key: PKey) -> Verdict:
        """Judge a host's key; a name known without its port counts as known on every port."""
        with self._lock:
            self._refresh()
            return self._judge(name, port, key)

    def check_certificate(self, name: str, port: int, certificate: Certificate) -> Verdict:
        """Judge who signed a host's certificate: known, unknown, or revoked (this authority, or the key itself)."""
        with self._lock:
            self._refresh()
            verdict = _judge_authority(self._find(name, port), certificate)
            if verdict.standing is Standing.UNKNOWN and port != _SSH_PORT:
                return _judge_authority(self._find(name, _SSH_PORT), certificate)
            return verdict

    def has_authority(self, name: str, port: int) -> bool:
        """Whether a line names an authority for the host, so that it is to be asked for a certificate."""
        entries = self.entries(name, port) or self.entries(name, _SSH_PORT)
        return any(entry.marker == AUTHORITY for entry in entries)

    def algorithms(self, name: str, port: int) -> list[str]:
        """The types of the keys known for a host: to be asked for first, or a host with several keys shows one that is not known."""
        return _types(self.entries(name, port)) or _types(self.entries(name, _SSH_PORT))

    def entries(self, name: str, port: int) -> list[Entry]:
        """The lines that name a host, whatever they say about it: file by file, in their order."""
        with self._lock:
            self._refresh()
            return self._find(name, port)

    def add(self, name: str, port: int, key: PKey) -> Verdict:
        """Append the key of a host of which nothing is known, and judge it anew: somebody else may have been faster.

        The first user file is created when it is not there. Raises `HostKeyError` when the key cannot be recorded.
        """
        if self._own is None or set(name) & _UNWRITABLE:
            reason = "UserKnownHostsFile is none" if self._own is None else "its name would be read as a pattern"
            raise HostKeyError(name, f"its host key cannot be recorded: {reason}")
        try:
            with self._lock, _locked(self._own.path) as file:
                return self._add(self._own, file, name, port, key)
        except OSError as error:
            raise HostKeyError(name, f"its host key cannot be recorded in {self._own.path}: {error.strerror}") from None

    def _add(self, own: KnownHostsFile, file: int, name: str, port: int, key: PKey) -> Verdict:
        self._refresh()
        verdict = self._judge(name, port, key)
        if verdict.standing is not Standing.UNKNOWN:
            return verdict
        line = self._line(name, port, key)
        before = os.fstat(file)
        os.write(file, (b"" if _ends_line(file, before.st_size) else b"\n") + line + b"\n")
        if own.is_at(before) and stat.S_ISREG(before.st_mode):  # what goes to /dev/null is to be forgotten
            own.has_grown(_spell(name, port), line, os.fstat(file))
        return Verdict(Standing.KNOWN)

    def _line(self, name: str, port: int, key: PKey) -> bytes:
        spelled = _spell(name, port)
        if self._hash_names:
            salt = os.urandom(20)
            spelled = b"|1|" + base64.b64encode(salt) + b"|" + base64.b64encode(hmac.digest(salt, spelled, "sha1"))
        return b" ".join([spelled, key.get_name().encode(), base64.b64encode(key.asbytes())])

    def _refresh(self) -> None:
        for file in self._files:
            file.refresh()

    def _find(self, name: str, port: int) -> list[Entry]:
        spelled = _spell(name, port)
        return [entry for file in self._files for entry in file.find(spelled)]

    def _judge(self, name: str, port: int, key: PKey) -> Verdict:
        verdict = _judge(self._find(name, port), key)
        if verdict.standing is not Standing.UNKNOWN or port == _SSH_PORT:
            return verdict
        plain = _judge(self._find(name, _SSH_PORT), key)
        return plain if plain.standing in {Standing.KNOWN, Standing.REVOKED} else verdict


def _judge(entries: Sequence[Entry], key: PKey) -> Verdict:
    wanted = (key.get_name(), key.asbytes())
    verdict = Verdict(Standing.UNKNOWN)
    for entry in entries:
        found = entry.key
        if entry.marker == AUTHORITY or found is None:
            continue
        if entry.marker == REVOKED:
            if found == wanted:
                return Verdict(Standing.REVOKED, entry)
        elif found == wanted:
            verdict = Verdict(Standing.KNOWN, entry)
        elif verdict.standing is not Standing.KNOWN and found[0] == wanted[0]:
            verdict = Verdict(Standing.CHANGED, entry)
        elif verdict.standing is Standing.UNKNOWN:
            verdict = Verdict(Standing.NEW_TYPE, entry)
    return verdict


def _judge_authority(entries: Sequence[Entry], certificate: Certificate) -> Verdict:
    authority, key = ((type_of(blob), blob) for blob in (certificate.authority, certificate.public))
    verdict = Verdict(Standing.UNKNOWN)
    for entry in entries:
        if entry.marker == REVOKED and entry.key in {authority, key}:
            return Verdict(Standing.REVOKED, entry)
        if entry.marker == AUTHORITY and entry.key == authority and verdict.entry is None:
            verdict = Verdict(Standing.KNOWN, entry)
    return verdict


def _types(entries: Sequence[Entry]) -> list[str]:
    keys = [(entry.marker, entry.key) for entry in entries if entry.marker != AUTHORITY]
    revoked = [key for marker, key in keys if marker == REVOKED]
    return list(dict.fromkeys(key[0] for marker, key in keys if key and key not in revoked))


def _spell(name: str, port: int) -> bytes:
    return (name if port == _SSH_PORT else f"[{name}]:{port}").encode(errors="surrogateescape").lower()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file to append, creating it for us alone, and hold its lock against other processes of ours."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file):  # ssh-keygen -R puts another file in its place
                yield file
                return
        finally:
            os.close(file)


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _ends_line(file: int, size: int) -> bool:
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"


def fingerprint(key: PKey) -> str:
    """The key's fingerprint as OpenSSH shows it."""
    return fingerprint_of(key.asbytes())


def fingerprint_of(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def explain(verdict: Verdict, name: str, port: int, key: PKey) -> str:
    """Say in one line why a key is refused, and what to do if it is right all the same."""
    shown = f"{_short(key.get_name())} {fingerprint(key)}"
    host = _spell(name, port).decode(errors="replace")
    entry = verdict.entry
    if entry is None:
        return f"host key of {host} is not known ({shown}); if it is right: {_scan(name, port, key)}, or allow accept-new"
    place = entry.place
    file = "" if entry.path == Path("~/.ssh/known_hosts").expanduser() else f" -f {shlex.quote(str(entry.path))}"
    remove = f"ssh-keygen{file} -R {shlex.quote(host)}"
    match verdict.standing:
        case Standing.CHANGED:
            return f"host key of {host} has changed ({shown}); the old one stands at {place}; if that is right: {remove}"
        case Standing.NEW_TYPE:
            known = _short(entry.key[0]) if entry.key else "other"
            return (
                f"host key of {host} is of a type not known for it ({shown}); its {known} key stands at {place}; "
                f"if it is right: {_scan(name, port, key)}"
            )
        case Standing.REVOKED:
            return f"host key of {host} is revoked ({shown}) at {place}"
        case _:
            return f"host key of {host} is known ({shown}) at {place}"


def _scan(name: str, port: int, key: PKey) -> str:
    kind = _short(key.get_name()).lower()
    return f"ssh-keyscan -t {kind}{'' if port == _SSH_PORT else f' -p {port}'} {shlex.quote(name)} >> ~/.ssh/known_hosts"


def _short(kind: str) -> str:
    return kind.removeprefix("ssh-").partition("-")[0].upper()
