"""Certificates to log in with: the ones in files, and those that an agent holds."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentKey
from paramiko.pkey import PublicBlob

from executors.ssh.certificates import USER, Certificate, CertificateError, read_certificate


class CertifiedKey(paramiko.PKey):
    """A private key that shows a certificate in the place of its public half."""

    def __init__(self, key: paramiko.PKey, certificate: Certificate) -> None:
        self._key = key
        self.certificate = certificate
        self.public_blob = PublicBlob(certificate.kind, certificate.blob)

    def get_name(self) -> str:
        return self._key.get_name()

    def asbytes(self) -> bytes:
        return self._key.asbytes()

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message:
        return self._key.sign_ssh_data(data, algorithm)


class AgentCertificate(AgentKey):
    """A certificate that an agent holds; it may hold the plain key as well, or not."""

    def __init__(self, key: AgentKey) -> None:
        super().__init__(key.agent, key.blob, key.comment)
        self.public_blob: Any = PublicBlob(self.name, self.blob)
        self.certificate = read_certificate(self.blob)

    def asbytes(self) -> bytes:
        """What the agent knows it by; paramiko would ask it for the plain key."""
        return self.blob


def read_file(path: Path) -> Certificate:
    """The certificate in a file, which may be named without its .pub; raises `CertificateError` that names the file."""
    try:
        words = (path if path.exists() else path.with_name(f"{path.name}.pub")).read_text().split()
        certificate = read_certificate(base64.b64decode(words[1]))
    except FileNotFoundError:
        raise CertificateError(f"certificate {path} does not exist") from None
    except IndexError:
        raise CertificateError(f"certificate {path} cannot be used: it is no certificate") from None
    except (OSError, ValueError) as error:
        raise CertificateError(f"certificate {path} cannot be used: {error}") from None
    if certificate.role != USER:
        raise CertificateError(f"certificate {path} cannot be used: it is one for hosts")
    return certificate


def beside(paths: Iterable[Path]) -> list[Path]:
    """The certificates that lie beside key files."""
    return [path for path in (key.with_name(f"{key.name}-cert.pub") for key in paths) if path.exists()]
