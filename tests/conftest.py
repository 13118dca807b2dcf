"""Servers that several folders of tests share."""

from collections.abc import Iterator

import pytest

from tests.servers.sshd import Sshd, run_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An OpenSSH server that greets everybody; a test that needs an odd one starts its own by `run_sshd`."""
    with run_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server
