"""A hub for tests, and agents that have joined it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.agent.agents import Agent, enrolled
from tests.executors.agent.hub import Hub, serve


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def url(hub: Hub) -> Iterator[str]:
    with serve(hub) as address:
        yield address


@pytest.fixture
def host(hub: Hub, url: str, tmp_path: Path) -> Iterator[Agent]:
    """An agent that has joined, and is still to be started."""
    with enrolled(tmp_path, hub, url) as agent:
        yield agent


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent at work for a whole file, with room for many commands."""
    hub = Hub()
    with serve(hub) as address, enrolled(tmp_path_factory.mktemp("agent"), hub, address) as agent:
        yield agent.start("--commands", "20")
