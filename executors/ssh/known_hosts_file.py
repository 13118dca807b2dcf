"""One known_hosts file: its lines indexed by name (SSH_KNOWN_HOSTS FILE FORMAT in sshd(8))."""

import base64
import binascii
import hmac
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from models.sshconfig import Stamp, stamp
from models.wildcards import matches_list

REVOKED = b"@revoked"
AUTHORITY = b"@cert-authority"
_HASH = b"|1|"
_SHA1_SIZE = 20
_SAME_KEY = {"rsa-sha2-256": "ssh-rsa", "rsa-sha2-512": "ssh-rsa"}  # names of signatures that OpenSSH takes for the key's

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that names a host: where it stands, its marker if it has one, and the text of its key."""

    path: Path
    line: int
    marker: bytes
    text: bytes

    @property
    def place(self) -> str:
        """File and line, as messages show them."""
        home = Path("~").expanduser()
        path = f"~/{self.path.relative_to(home)}" if self.path.is_relative_to(home) else self.path
        return f"{path}:{self.line}"

    @property
    def key(self) -> tuple[str, bytes] | None:
        """Type and blob of the key; None when the line is damaged, which then counts for nothing."""
        words = self.text.split(None, 2)
        if len(words) < 2:
            return None
        try:
            blob = base64.b64decode(words[1], validate=True)
        except binascii.Error:
            return None
        name = words[0].decode("latin-1")
        return (_SAME_KEY.get(name, name), blob) if _is_whole(blob, _SAME_KEY.get(name, name).encode("latin-1")) else None


class KnownHostsFile:
    """The lines of a file, found by name: plain ones at once, wildcards one by one, hashed ones by one HMAC each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: Stamp | None = None
        self._clear()

    def refresh(self) -> None:
        """Read the file again if it has changed. One that cannot be read knows no host, as with OpenSSH."""
        now = stamp(self.path)
        if now == self._stamp:
            return
        self._clear()
        self._stamp = now
        try:
            content = self.path.read_bytes()
        except OSError as error:
            if now is not None:
                logger.warning("%s: %s", self.path, error.strerror)
            return
        *lines, last = content.split(b"\n")
        for line in [*lines, last] if last else lines:
            self._add(line)

    def find(self, name: bytes) -> list[Entry]:
        """The lines that name the host, in their order. The name is in lower case, `[name]:port` unless the port is 22."""
        if name not in self._found:
            self._found[name] = sorted(self._search(name), key=lambda entry: entry.line)
        return self._found[name]

    def is_at(self, status: os.stat_result) -> bool:
        """Tell whether what has been read is what the open file holds now."""
        return self._stamp == (status.st_mtime_ns, status.st_size, status.st_ino)

    def has_grown(self, name: bytes, line: bytes, status: os.stat_result) -> None:
        """Take in a line that we have appended ourselves for a name, without reading the rest again."""
        self._found.pop(name, None)
        self._add(line)
        self._stamp = (status.st_mtime_ns, status.st_size, status.st_ino)

    def _clear(self) -> None:
        self._count = 0
        self._plain: dict[bytes, list[Entry]] = {}
        self._wild: list[tuple[str, Entry]] = []
        self._hashed: list[tuple[bytes, bytes, Entry]] = []
        self._found: dict[bytes, list[Entry]] = {}

    def _add(self, line: bytes) -> None:
        self._count += 1
        marker, line = _cut_marker(line.lstrip(b" \t"))
        if marker is None or not line or line.startswith(b"#"):
            return
        names, _, text = line.replace(b"\t", b" ").partition(b" ")
        entry = Entry(self.path, self._count, marker, text)
        if names.startswith(b"|"):
            self._add_hashed(names, entry)
        elif b"*" in names or b"?" in names or b"!" in names:
            self._wild.append((names.lower().decode("latin-1"), entry))
        else:
            for name in set(names.lower().split(b",")):
                self._plain.setdefault(name, []).append(entry)

    def _add_hashed(self, names: bytes, entry: Entry) -> None:
        salt, _, digest = names.removeprefix(_HASH).partition(b"|")
        try:
            decoded = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
        except binascii.Error:
            return
        if names.startswith(_HASH) and len(decoded[0]) == _SHA1_SIZE:
            self._hashed.append((*decoded, entry))

    def _search(self, name: bytes) -> list[Entry]:
        self._reveal(name)
        text = name.decode("latin-1")
        return self._plain.get(name, []) + [entry for patterns, entry in self._wild if matches_list(text, patterns)]

    def _reveal(self, name: bytes) -> None:
        """Move the hashed lines of a name to the plain ones: a hash is of one name, so nobody else needs to try them."""
        mine = [row for row in self._hashed if hmac.digest(row[0], name, "sha1") == row[1]]
        for row in mine:
            self._hashed.remove(row)
            self._plain.setdefault(name, []).append(row[2])


def _cut_marker(line: bytes) -> tuple[bytes | None, bytes]:
    """A line with an unknown marker, or with two, is skipped."""
    if not line.startswith(b"@"):
        return b"", line
    words = line.split(None, 1)
    if words[0] not in {REVOKED, AUTHORITY} or len(words) == 1 or words[1].startswith(b"@"):
        return None, b""
    return words[0], words[1]


def _is_whole(blob: bytes, name: bytes) -> bool:
    """A key is a row of strings with their lengths before them, the first of which is its type (RFC 4253, section 6.6)."""
    parts = []
    at = 0
    while at + 4 <= len(blob):
        size = int.from_bytes(blob[at : at + 4])
        parts.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    return at == len(blob) and len(parts) > 1 and parts[0] == name
