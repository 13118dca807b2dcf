"""A worker for each file; tests that end one start their own."""

from collections.abc import Iterator

import pytest

from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker, run_worker


@pytest.fixture(scope="package")
def careful(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that asks before it runs a command with `rm`, or on more than 30 hosts, and that waits 15 seconds for an answer."""
    home = tmp_path_factory.mktemp("careful")
    (home / "fleetflow.toml").write_text("approve_hosts = 30\napprove_pattern = '\\brm\\b'\napproval_timeout = 15\n")
    with run_worker(prefect_server, home) as running:
        yield running


@pytest.fixture(scope="module")
def worker(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with run_worker(prefect_server, tmp_path_factory.mktemp("worker")) as running:
        yield running
