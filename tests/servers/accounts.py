"""Throw-away accounts of this machine: a login user that is not root, what sudo lets it do, and a third user."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import need
from tests.servers.sshd import Sshd, run_sshd


@dataclass
class Accounts:
    """Two accounts, and an sshd that the first can log in to with a key."""

    login: str
    third: str
    password: str  # of `login`
    sshd: Sshd
    _rules: Path

    def allow(self, *lines: str) -> None:
        """Let sudo do with the login user as these lines of sudoers say; `USER` stands for it."""
        text = "".join(f"{line.replace('USER', self.login)}\n" for line in lines)
        draft = self.sshd.folder / "sudoers"
        draft.write_text(text)
        subprocess.run([need("visudo"), "-q", "-c", "-f", str(draft)], check=True)
        draft.chmod(0o440)
        shutil.move(draft, self._rules)


@contextmanager
def run_accounts() -> Iterator[Accounts]:
    """Make the accounts, and take them away again with all that is theirs."""
    if os.geteuid() != 0:
        pytest.skip("only root can make accounts")
    need("sudo")
    word = secrets.token_hex(3)
    login, third = f"ff{word}a", f"ff{word}b"
    rules = Path(f"/etc/sudoers.d/fleetflow-{word}")
    folder = Path(tempfile.mkdtemp(prefix="fleetflow-sshd-"))  # pytest's own folders are closed to the login user
    folder.chmod(0o711)
    password = f"canary-{secrets.token_hex(8)} 'of\" sudo"
    try:
        for user in (login, third):
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", user], check=True)
        subprocess.run(["chpasswd"], input=f"{login}:{password}\n", text=True, check=True)
        with run_sshd(folder) as sshd:
            (folder / "authorized_keys").chmod(0o644)
            yield Accounts(login, third, password, sshd, rules)
    finally:
        rules.unlink(missing_ok=True)
        shutil.rmtree(folder)
        for user in (login, third):
            subprocess.run(["userdel", "--force", "--remove", user], capture_output=True, check=False)
