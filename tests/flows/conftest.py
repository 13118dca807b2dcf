"""A worker for each file; tests that end one start their own."""

from collections.abc import Iterator

import pytest

from tests.servers.prefect import PrefectServer
from tests.servers.worker import Worker, run_worker


@pytest.fixture(scope="module")
def worker(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with run_worker(prefect_server, tmp_path_factory.mktemp("worker")) as running:
        yield running
