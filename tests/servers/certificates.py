"""Certificates for tests of TLS, signed by an authority of theirs."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOBODY = serialization.NoEncryption()


@dataclass
class Issuer:
    """An authority whose certificate is `trust`."""

    folder: Path
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def trust(self) -> Path:
        path = self.folder / "authority.pem"
        path.write_bytes(self._sign("authority of the tests", self._key.public_key(), 0, 1, is_authority=True))
        return path

    def issue(self, name: str = "hub", begins: float = -1, ends: float = 1, passphrase: bytes = b"") -> tuple[Path, Path]:
        """A certificate for localhost that begins and ends so many days from now, and its key; the certificate's file holds both."""
        key = ec.generate_private_key(ec.SECP256R1())
        sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else _NOBODY
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(self._sign("localhost", key.public_key(), begins, ends, is_authority=False) + pem)
        private.write_bytes(pem)
        return certificate, private

    def _sign(self, name: str, key: ec.EllipticCurvePublicKey, begins: float, ends: float, *, is_authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        common, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, "authority of the tests"))
        made = x509.CertificateBuilder().subject_name(common).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now + datetime.timedelta(begins)).not_valid_after(now + datetime.timedelta(ends))
        made = made.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
