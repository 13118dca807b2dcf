"""The hub's certificate, a given one or one of its own, and the fingerprint by which agents know it."""

import datetime
import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from models import selfsigned
from models.address import speaks_tls
from models.errors import SettingsError
from models.keepsake import keep
from models.settings import Settings, source


@dataclass(frozen=True, slots=True)
class Files:
    """Where certificate and key are, and what errors name as the place where people say so."""

    certificate: Path
    key: Path
    certificate_source: str
    key_source: str

    def wrong_certificate(self, reason: str) -> SettingsError:
        return SettingsError(self.certificate_source, f"{self.certificate} {reason}")

    def wrong_key(self, reason: str) -> SettingsError:
        return SettingsError(self.key_source, f"{self.key} {reason}")


def check(settings: Settings) -> None:
    """See to it that the hub can be started; raises what `open_context` does, and `SettingsError` for a certificate that is not valid now.

    A hub that is started again after its death goes on with one that has expired: agents know it by its fingerprint.
    """
    open_context(settings)
    if files := _files(settings):
        _check_dates(files)


def open_context(settings: Settings) -> ssl.SSLContext | None:
    """What the hub serves with; None where it speaks plain HTTP. Where no certificate is given it makes one, at its first start.

    Raises `SettingsError` for a certificate or key that cannot be used, and `UnavailableError`.
    """
    files = _files(settings)
    if files is None:
        return None
    if settings.hub_cert is None:
        _make(files, settings)
    _certificate(files)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # agents keep their connections, and resume none
    _load(context, files)
    return context


def fingerprint(settings: Settings) -> str | None:
    """SHA-256 of the hub's certificate, in hexadecimal; None where it speaks plain HTTP, or has not made one yet.

    Raises `SettingsError`.
    """
    files = _files(settings)
    if files is None or (settings.hub_cert is None and not files.certificate.exists()):
        return None
    return _certificate(files).fingerprint(hashes.SHA256()).hex()


def _files(settings: Settings) -> Files | None:
    if not speaks_tls(settings):
        return None
    certificate, key = settings.hub_cert, settings.hub_key
    if certificate is not None:
        return Files(
            certificate.expanduser(), (key or certificate).expanduser(), source("hub_cert"), source("hub_key" if key else "hub_cert")
        )
    if key is not None:
        raise SettingsError(source("hub_key"), "is the key of no certificate; set hub_cert too")
    return Files(settings.home / "hub.crt", settings.home / "hub.key", "the hub's own certificate", "the hub's own key")


def _make(files: Files, settings: Settings) -> None:
    key = keep(files.key, selfsigned.make_key)  # first: a certificate is made for the key that is there
    try:
        keep(files.certificate, lambda: selfsigned.make_certificate(key, _names(settings)))
    except ValueError:
        raise files.wrong_key("is not a key as the hub makes it; remove it") from None


def _names(settings: Settings) -> set[str]:
    """All by which this machine may be called."""
    host = socket.gethostname()
    names = {host, "localhost", "127.0.0.1", "::1"}
    with suppress(OSError):
        names |= {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, None)}
    if not ipaddress.ip_address(settings.hub_host).is_unspecified:
        names.add(settings.hub_host)
    if settings.hub_url:
        names.add(urlsplit(settings.hub_url).hostname or "")
    return {name for name in names if name and name.isascii()}


def _check_dates(files: Files) -> None:
    certificate, now = _certificate(files), datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise files.wrong_certificate(f"expired on {certificate.not_valid_after_utc:%F}")
    if now < certificate.not_valid_before_utc:
        raise files.wrong_certificate(f"is not valid before {certificate.not_valid_before_utc:%F}")


def _certificate(files: Files) -> x509.Certificate:
    """The first of the file: the others are its chain."""
    try:
        return x509.load_pem_x509_certificate(files.certificate.read_bytes())
    except OSError as error:
        raise files.wrong_certificate(f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise files.wrong_certificate("holds no certificate in PEM") from None


def _load(context: ssl.SSLContext, files: Files) -> None:
    asked = []

    def refuse() -> str:  # else OpenSSL asks on a terminal
        asked.append(files.key)
        return ""

    try:
        context.load_cert_chain(files.certificate, files.key, refuse)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            raise files.wrong_key("has a passphrase; give one without") from None
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise files.wrong_key(f"is not the key of {files.certificate}") from None
        raise files.wrong_key("holds no private key in PEM that can be used") from None
    except OSError as error:
        raise files.wrong_key(f"cannot be read: {error.strerror or error}") from None
