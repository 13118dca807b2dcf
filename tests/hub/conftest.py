"""A hub for each file, and agents on it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from executors.agent.executor import ByAgent
from tests.hub.agents import SmallAgent
from tests.servers.hub import Hub, run_hub

Enrol = Callable[[str], Awaitable[SmallAgent]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with run_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=hub.url, timeout=60, trust_env=False, limits=limits) as client:
        yield client


@pytest.fixture
def enrol(hub: Hub, client: httpx.AsyncClient) -> Enrol:
    async def enrol(name: str) -> SmallAgent:
        agent = SmallAgent(client, name)
        (await agent.join(hub.token())).raise_for_status()
        return agent

    return enrol


@pytest.fixture
async def executor(hub: Hub) -> AsyncIterator[ByAgent]:
    executor = hub.executor(grace=1.0)
    yield executor
    await executor.aclose()
