"""Reads private keys, of files and of text, and says in one line why one cannot be used; what it says names no secret."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

import paramiko

from models.credentials import Credentials

MOST_ROUNDS = 2000  # of bcrypt, at 7 ms each: ssh-keygen makes 16 or 24, and a damaged key may ask for billions
_MAGIC = b"openssh-key-v1\0"


class UnusableKeyError(Exception):
    """A key that cannot be used; the message says why."""


@dataclass(frozen=True)
class _Origin:
    """Where a key comes from, and what is said of it where its passphrase is missing or wrong."""

    name: str
    missing: str
    wrong: str


def read_file(path: Path, passphrase: str | None) -> paramiko.PKey:
    """The key in a file; raises `UnusableKeyError`."""
    origin = _Origin(f"key file {path}", "set FLEETFLOW_SSH_PASSPHRASE", "FLEETFLOW_SSH_PASSPHRASE")
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise _unknown(origin) from None
    except OSError as error:
        raise UnusableKeyError(f"{origin.name} cannot be read ({error.strerror})") from None
    return _read(text, passphrase, origin)


def read_text(credentials: Credentials) -> paramiko.PKey:
    """The key that stands in credentials; raises `UnusableKeyError`."""
    origin = _Origin(f"the key of credentials {credentials.name!r}", "they hold no passphrase for it", "their passphrase")
    return _read(lay_out(credentials.key or ""), credentials.passphrase, origin)


_ARMOR = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)\s*(.*?)\s*(-----END [A-Z ]*PRIVATE KEY-----)", re.DOTALL)
_WIDTH = 70  # characters of a line, as ssh-keygen writes them


def lay_out(text: str) -> str:
    """A key as it stands in a file: a form that has one line for it takes its line breaks away."""
    found = _ARMOR.search(text)
    if found is None:
        return text
    begin, body, end = found.groups()
    lines = body.splitlines()
    if len(lines) < 2:
        packed = "".join(body.split())
        lines = [packed[start : start + _WIDTH] for start in range(0, len(packed), _WIDTH)]
    return "\n".join([begin, *(line.strip() for line in lines), end, ""])


def _read(text: str, passphrase: str | None, origin: _Origin) -> paramiko.PKey:
    try:
        return _decrypt(text, passphrase, origin)
    except paramiko.SSHException:
        raise _unknown(origin) from None


def _unknown(origin: _Origin) -> UnusableKeyError:
    return UnusableKeyError(f"{origin.name} is no ed25519, ECDSA or RSA private key")


def _decrypt(text: str, passphrase: str | None, origin: _Origin) -> paramiko.PKey:
    try:
        return _parse(text, None)
    except paramiko.PasswordRequiredException:
        if passphrase is None:
            raise UnusableKeyError(f"{origin.name} is encrypted; {origin.missing}") from None
    if (rounds := _rounds(text)) > MOST_ROUNDS:
        advice = f"at most {MOST_ROUNDS} are taken (`ssh-keygen -p -a 16` sets them, unless the key is damaged)"
        raise UnusableKeyError(f"{origin.name} wants {rounds} rounds of key derivation; {advice}")
    try:
        return _parse(text, passphrase)
    except paramiko.SSHException:
        raise UnusableKeyError(f"{origin.name} does not open with {origin.wrong}") from None


def _rounds(text: str) -> int:
    """How many rounds of bcrypt open an encrypted key, as its head says (PROTOCOL.key of OpenSSH); 0 for what has no such head."""
    found = _ARMOR.search(text)
    try:
        data = base64.b64decode(found[2]) if found is not None else b""
        _, _, options = _strings(data.removeprefix(_MAGIC), 3) if data.startswith(_MAGIC) else (b"", b"", b"")
        (salt,) = _strings(options, 1)
        return int.from_bytes(options[4 + len(salt) :][:4], "big")
    except ValueError:
        return 0


def _strings(data: bytes, number: int) -> list[bytes]:
    """The first strings of some SSH data (RFC 4251, section 5)."""
    found = []
    for _ in range(number):
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def _parse(text: str, passphrase: str | None) -> paramiko.PKey:
    """The key of whatever type; PKey.from_path would take a certificate beside it in its place, and fail with a damaged one."""
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except Exception:  # noqa: BLE001, S112 - a damaged text makes paramiko raise anything: IndexError, AssertionError
            continue  # it may be a key of the next kind
    raise paramiko.SSHException("no key")
