"""Servers that several folders of tests share."""

import signal
from collections.abc import Iterator

import pytest

from models.lasting import lasting
from tests.servers.postgres import PostgresServer, run_postgres
from tests.servers.prefect import PrefectServer, run_prefect_server
from tests.servers.sshd import Sshd, run_sshd

# Files without a server of their own, whose tests mostly wait: each goes to whoever is free.
_ALONE = (
    "test_durable.py", "test_durable_ends.py", "test_durable_spool.py", "test_lifeline.py", "test_local.py", "test_silent_cut.py",
    "test_unreachable.py",
)  # fmt: skip
# Files that take half a minute or more go first, so that none of them is what everybody waits for at the end; the one that
# computes all the time goes beside those that wait.
_LONG = (
    "stack", "prefect", "test_soak_hub.py", "test_leaks.py", "test_contract.py", "test_stack.py", "test_postgres.py",
    "test_agent_survives.py", "test_durable_contract.py", "test_agent_hub.py", "test_fuzz.py", "test_leak_tasks.py", *_ALONE,
)  # fmt: skip


def pytest_configure() -> None:
    """Take signals as a terminal gives them: a shell's background job ignores some, and so would all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook, and would be first
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a server run one after the other in one process, other files side by side."""
    for item in items:
        if item.path.name not in _ALONE or "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(_room(item)))
    items.sort(key=lambda item: _LONG.index(_room(item)) if _room(item) in _LONG else len(_LONG))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays: nobody needs to look for garbage in it."""
    with lasting():
        return (yield)


def _room(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    shared = next((name for name in ("stack", "prefect_server") if name in fixtures), None)
    if shared == "stack" and item.path.name == "test_stack.py":
        return item.path.name
    return {"stack": "stack", "prefect_server": "prefect"}.get(shared or "", item.path.name)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; each test takes a database of its own from it."""
    with run_postgres() as server:
        yield server
