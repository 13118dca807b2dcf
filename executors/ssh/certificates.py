"""OpenSSH certificates, of hosts and of users: read, and judged as OpenSSH judges them (PROTOCOL.certkeys of OpenSSH)."""

import time
from dataclasses import dataclass
from typing import Any

import paramiko

SUFFIX = "-cert-v01@openssh.com"
USER, HOST = 1, 2  # whom a certificate speaks of
_NUMBERS = {  # the strings that make up a public key, by its type
    "ssh-ed25519": 1,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "ssh-rsa": 2,
}
_CLASSES: dict[str, type[paramiko.PKey]] = {
    "ssh-ed25519": paramiko.Ed25519Key,
    "ssh-rsa": paramiko.RSAKey,
    **{name: paramiko.ECDSAKey for name in _NUMBERS if name.startswith("ecdsa-")},
}


class CertificateError(ValueError):
    """What should be a certificate is none, or was not signed by the authority that it names."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A public key, and what its authority says about it; the times are seconds since 1970."""

    kind: str
    blob: bytes
    serial: int
    role: int  # USER or HOST
    name: str  # what the authority calls it
    principals: tuple[str, ...]  # users or hosts; none: every host, and no user
    valid_after: int
    valid_before: int
    critical: tuple[str, ...]  # options that have to be understood, by name
    public: bytes  # the plain key
    authority: bytes  # its key

    @property
    def key(self) -> paramiko.PKey:
        """The plain key."""
        return public_key(self.public)

    @property
    def untimely(self) -> str:
        """Why it does not hold now; empty when it does."""
        now = time.time()
        if now < self.valid_after:
            return f"it is not valid before {_show(self.valid_after)}"
        return f"it expired at {_show(self.valid_before)}" if now >= self.valid_before else ""

    def why_not_host(self, host: str) -> str:
        """Why it does not prove a host of this name; empty when it does."""
        if self.role != HOST:
            return "it is no host certificate"
        if self.untimely:
            return self.untimely
        if self.principals and host not in self.principals:
            return f"it is for {_list(self.principals)} and not for {host}"
        if self.critical:
            return f"fleetflow does not know its critical option {_list(self.critical)}"
        if type_of(self.authority) not in _CLASSES:
            return f"fleetflow cannot check the signature of its authority, a key of type {type_of(self.authority)}"
        return ""

    def why_not_user(self, user: str) -> str:
        """Why a server may well refuse this user with it, as far as it says itself; empty when nothing speaks against it."""
        if self.untimely:
            return self.untimely
        if user in self.principals:
            return ""
        return f"it is for {_list(self.principals)} and not for {user}" if self.principals else "it names no user"


def read_certificate(blob: bytes) -> Certificate:
    """Read a certificate and check its signature; raises `CertificateError`."""
    fields = _Fields(blob)
    kind = fields.text()
    plain = kind.removesuffix(SUFFIX)
    if plain == kind or plain not in _NUMBERS:
        raise CertificateError(f"{kind[:80]!r} is no type of certificate that fleetflow knows")
    fields.string()  # a nonce
    numbers = [fields.string() for _ in range(_NUMBERS[plain])]
    certificate = _read_statement(fields, kind=kind, blob=blob, public=b"".join(map(_pack, (plain.encode(), *numbers))))
    _check_signature(certificate, signed=blob[: fields.at], signature=fields.string())
    if not fields.at_end or certificate.role not in {USER, HOST}:
        raise CertificateError("it is damaged")
    return certificate


def _read_statement(fields: "_Fields", *, kind: str, blob: bytes, public: bytes) -> Certificate:
    """What stands between the key and the signature, in its order."""
    serial, role, name = fields.number(8), fields.number(4), fields.text()
    principals = tuple(part.decode(errors="backslashreplace") for part in _Fields(fields.string()).strings())
    valid_after, valid_before = fields.number(8), fields.number(8)
    critical, _extensions, _reserved, authority = _names(fields.string()), _names(fields.string()), fields.string(), fields.string()
    return Certificate(
        kind=kind,
        blob=blob,
        serial=serial,
        role=role,
        name=name,
        principals=principals,
        valid_after=valid_after,
        valid_before=valid_before,
        critical=critical,
        public=public,
        authority=authority,
    )


def public_key(blob: bytes) -> paramiko.PKey:
    """The key in a blob; raises `CertificateError` when it is none that we can check a signature with."""
    maker: Any = _CLASSES.get(type_of(blob))
    if maker is None:
        raise CertificateError("its key is of a type that fleetflow does not know")
    try:
        key: paramiko.PKey = maker(data=blob)
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise CertificateError(f"its key is damaged ({error})") from None
    return key


def type_of(blob: bytes) -> str:
    """The type of a key or a certificate."""
    return _Fields(blob).text()


def _check_signature(certificate: Certificate, signed: bytes, signature: bytes) -> None:
    """Of the types that we can check; for another one `why_not_host` says so."""
    if type_of(certificate.authority).endswith(SUFFIX):
        raise CertificateError("its authority is a certificate itself")
    if type_of(certificate.authority) not in _CLASSES:
        return
    authority = public_key(certificate.authority)
    name, *numbers = _Fields(signature).strings() or [b""]  # read to its end: paramiko fills up what is missing
    if name.startswith(b"ecdsa-"):
        _Fields(b"".join(numbers)).strings()
    try:
        is_genuine = len(numbers) == 1 and authority.verify_ssh_sig(signed, paramiko.Message(signature))
    except (paramiko.SSHException, ValueError):  # it cannot even be read
        is_genuine = False
    if not is_genuine:
        raise CertificateError("its signature is not that of its authority")


class _Fields:
    """The fields of a blob, one after the other; paramiko's own reader fills up what is missing with zeros."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self.at = 0

    @property
    def at_end(self) -> bool:
        return self.at == len(self._blob)

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size))

    def string(self) -> bytes:
        return self._take(self.number(4))

    def text(self) -> str:
        return self.string().decode(errors="backslashreplace")

    def strings(self) -> list[bytes]:
        found = []
        while not self.at_end:
            found.append(self.string())
        return found

    def _take(self, size: int) -> bytes:
        if size > len(self._blob) - self.at:
            raise CertificateError("it is cut short")
        self.at += size
        return self._blob[self.at - size : self.at]


def _names(options: bytes) -> tuple[str, ...]:
    """Options are pairs of a name and its value."""
    parts = _Fields(options).strings()
    if len(parts) % 2:
        raise CertificateError("it is damaged")
    return tuple(name.decode(errors="backslashreplace") for name in parts[::2])


def _pack(part: bytes) -> bytes:
    return len(part).to_bytes(4) + part


def _list(names: tuple[str, ...]) -> str:
    """At most five: a certificate may name hundreds."""
    return ", ".join(map(_printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])


def _show(moment: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(moment))
    except (OverflowError, ValueError, OSError):
        return "the end of time"
