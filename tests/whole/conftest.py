from collections.abc import Iterator

import pytest

from tests.servers.sshd import Sshd
from tests.stacks import Stack, run_stack


@pytest.fixture(scope="session")
def secret() -> str:
    return "canary-of-the-worker-7f3a"


@pytest.fixture(scope="package")  # it works while it waits, and so ends with its last test
def stack(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd, secret: str) -> Iterator[Stack]:
    """One stack for all of these tests; a test that ends its worker waits for the next one."""
    home = tmp_path_factory.mktemp("whole") / "home"
    passwords = {"FLEETFLOW_SSH_PASSWORD": f"{secret}-password", "FLEETFLOW_BECOME_PASSWORD": f"{secret}-sudo"}
    with run_stack(
        home, sshd, FLEETFLOW_SECRET_CANARY=secret, FLEETFLOW_GRACE="1", FLEETFLOW_APPROVE_PATTERN="approve-me", **passwords
    ) as stack:
        yield stack
