"""Servers that several folders of tests share."""

from collections.abc import Iterator

import pytest

from tests.servers.prefect import PrefectServer, run_prefect_server
from tests.servers.sshd import Sshd, run_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An OpenSSH server that greets everybody; a test that needs an odd one starts its own by `run_sshd`."""
    with run_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Prefect's API; it takes ten seconds to start, so all tests share it."""
    with run_prefect_server(tmp_path_factory.mktemp("prefect-server")) as server:
        yield server
