"""What those see who watch over a hub: probes, and Prometheus."""

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from executors.agent.executor import ByAgent
from hub.metrics import Metrics
from hub.shared import Shared
from models.values import Attempt, Command, ExecutorKind, Host
from tests.executors.sinks import Collector
from tests.hub.agents import SmallAgent
from tests.hub.conftest import Enrol
from tests.servers.hub import Hub, run_hub

Samples = dict[tuple[str, str], float]
DOCS = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One that writes down at once who was seen."""
    with run_hub(tmp_path_factory.mktemp("hub"), FLEETFLOW_LOST_AFTER="1") as running:
        yield running


async def scrape(client: httpx.AsyncClient) -> Samples:
    """Every figure, by its name and the value of its label."""
    answer = await client.get("/metrics")
    answer.raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, ",".join(value for label, value in sample.labels.items() if label != "le")): sample.value
        for family in families
        for sample in family.samples
    }


async def until_scraped(client: httpx.AsyncClient, expected: Samples) -> Samples:
    async with asyncio.timeout(20):
        while not expected.items() <= (found := await scrape(client)).items():
            await asyncio.sleep(0.2)
    return found


async def test_the_figures_move(executor: ByAgent, enrol: Enrol, hub: Hub, client: httpx.AsyncClient) -> None:
    before = await scrape(client)
    assert before["fleetflow_agents", "online"] == before["fleetflow_open_polls", ""] == before["fleetflow_deliveries", "queued"] == 0
    assert before["fleetflow_database_up", ""] == 1
    agent = await enrol("seen")
    await SmallAgent(client, "waits").join(hub.token(approves=False))
    await agent.sync()
    poll = asyncio.create_task(agent.post(wait=30))
    await enrol("never")
    run = asyncio.create_task(
        executor.run(Attempt(id=uuid.uuid4()), Host(name="never", executor=ExecutorKind.AGENT), Command(script="true"), Collector())
    )
    expected = {("fleetflow_agents", "online"): 1.0, ("fleetflow_agents", "pending"): 1.0, ("fleetflow_agents", "never seen"): 1.0}
    found = await until_scraped(client, expected | {("fleetflow_deliveries", "queued"): 1.0, ("fleetflow_open_polls", ""): 1.0})
    assert 0 < found["fleetflow_delivery_oldest_queued_seconds", ""] < 60
    await agent.sync(wait=0.1)
    assert (await poll).status_code == httpx.codes.OK, "a newer poll answers the older one"
    found = await scrape(client)
    assert found["fleetflow_sync_seconds_count", ""] == 1, "the time that a poll is held is not the hub's"
    await agent.sync(held=[str(uuid.uuid4())])
    found = await scrape(client)
    for name in ("sync", "report", "transaction"):
        assert found[f"fleetflow_{name}_seconds_count", ""] > before[f"fleetflow_{name}_seconds_count", ""]
    assert found["process_resident_memory_bytes", ""] > 10_000_000
    run.cancel()
    await asyncio.wait({run})


async def test_a_hub_whose_database_goes_away_lives_and_is_not_ready_until_it_is_back(hub: Hub, client: httpx.AsyncClient) -> None:
    async def until_ready(code: int) -> httpx.Response:
        async with asyncio.timeout(20):
            while (answer := await client.get("/readyz")).status_code != code:
                await asyncio.sleep(0.1)
        return answer

    assert (await until_ready(200)).json() == {"ready": True, "reasons": []}
    file = hub.home / "fleetflow.db"
    file.rename(hub.home / "away.db")
    try:
        assert (await until_ready(503)).json() == {"ready": False, "reasons": ["the database cannot be used"]}
        await until_scraped(client, {("fleetflow_database_up", ""): 0.0})
        assert ("fleetflow_agents", "online") not in await scrape(client)
        assert (await client.get("/healthz")).status_code == 200
        assert not file.exists(), "an empty one was made in its place"
    finally:
        (hub.home / "away.db").rename(file)
    await until_ready(200)


async def test_who_asks_in_a_loop_costs_the_database_nothing() -> None:
    asked: list[float] = []

    def ask() -> int:
        asked.append(time.monotonic())
        time.sleep(0.1)
        if len(asked) == 2:
            raise OSError
        return len(asked)

    shared = Shared(ask, fresh=0.2)
    with pytest.raises(TimeoutError):
        await shared.get(0.01)
    assert await asyncio.gather(*(shared.get(5) for _ in range(50))) == [1] * 50
    await asyncio.sleep(0.3)
    assert [type(one) for one in await asyncio.gather(*(shared.get(5) for _ in range(5)), return_exceptions=True)] == [OSError] * 5
    await asyncio.sleep(0.3)
    assert (await shared.get(5), len(asked)) == (3, 3)


def test_every_metric_is_in_the_docs() -> None:
    told = {(family.name + "_total" * (family.type == "counter"), family.type) for family in Metrics().registry.collect()}
    assert told == set(re.findall(r"^\| `(\w+)`[^|]* \| (\w+) \|", DOCS.read_text(), re.MULTILINE))
