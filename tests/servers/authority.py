"""A certificate authority for tests: `ssh-keygen -s`."""

import base64
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers.sshd import make_key


@dataclass(frozen=True)
class Authority:
    """A key that signs other keys."""

    key: Path

    @classmethod
    def make(cls, folder: Path, name: str, kind: str = "ed25519") -> "Authority":
        return cls(make_key(folder / name, kind))

    @property
    def public(self) -> str:
        return public(self.key)

    def sign(self, key: Path, *options: str, to: Path | None = None) -> Path:
        """Sign the public half of a key with options of ssh-keygen; the certificate lies beside the key, or is put into `to`."""
        arguments = ["ssh-keygen", "-q", "-s", str(self.key), "-I", f"{key.name} of the tests", *options, f"{key}.pub"]
        subprocess.run(arguments, check=True, capture_output=True)
        made = key.with_name(f"{key.name}-cert.pub")
        return made if to is None else Path(shutil.move(made, to))


def public(key: Path) -> str:
    """Type and text of a key's public half."""
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def blob(public_file: Path) -> bytes:
    return base64.b64decode(public_file.read_text().split()[1])
