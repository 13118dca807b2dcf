"""The contract by agents: a real hub, and the real program."""

from collections.abc import AsyncIterator, Iterator

import pytest

from executors.agent.executor import ByAgent
from executors.protocol import Sink
from models.values import Attempt, Command, EndedByHost, Host, Result
from tests.executors.contract import Contract, Runner
from tests.executors.contract_scripts import ScriptContract
from tests.servers.hub import Hub, RealAgent, run_agent, run_hub


class Acknowledging(ByAgent):
    """Acknowledges everything."""

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result | EndedByHost:
        try:
            return await super().run(attempt, host, command, sink)
        finally:
            await self.ack(attempt, host)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with run_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAgent]:
    with run_agent(hub, tmp_path_factory.mktemp("agents"), arguments=("--commands", "40")) as running:
        yield running


class OverTheHub:
    """What the contract asks of: an executor, and its host."""

    @pytest.fixture
    async def executor(self, hub: Hub, agent: RealAgent) -> AsyncIterator[ByAgent]:
        executor = hub.executor(grace=1.0, output_limit=64 * 1024 * 1024)
        executor.__class__ = Acknowledging
        yield executor
        await executor.aclose()

    @pytest.fixture
    def host(self, agent: RealAgent) -> Host:
        return agent.host


class TestByAgent(OverTheHub, Contract):
    async def test_kill_9_of_the_group_is_lost(self, run: Runner) -> None:
        """It is not: what keeps the command is not of its group, and tells how it ended."""
        assert (await run("kill -9 0"))[0] == 137


@pytest.mark.slow
class TestScriptsByAgent(OverTheHub, ScriptContract):
    run = Contract.run
