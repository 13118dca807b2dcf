"""The contract over SSH."""

import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executors.ssh.executor import Ssh
from models.values import Host
from tests.executors.contract import Contract
from tests.executors.contract_scripts import ScriptContract
from tests.servers.sshd import Sshd


class TestSsh(Contract, ScriptContract):
    @pytest.fixture(autouse=True)
    def home(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """What a login gives is the account's real home."""
        path = Path(pwd.getpwuid(os.geteuid()).pw_dir)
        monkeypatch.setenv("HOME", str(path))
        return path

    @pytest.fixture
    async def executor(self, sshd: Sshd) -> AsyncIterator[Ssh]:
        ssh = Ssh(sshd.settings())
        yield ssh
        await ssh.aclose()

    @pytest.fixture
    def host(self, sshd: Sshd) -> Host:
        return sshd.host()
