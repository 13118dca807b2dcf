"""The contract over SSH, by durable runs."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from executors.protocol import Sink
from executors.ssh.executor import Ssh
from models.values import Attempt, Command, EndedByHost, Host, OnDisconnect, Result
from tests.executors.ssh.test_contract import TestSsh as OverSsh
from tests.servers.sshd import Sshd


class Lingering(Ssh):
    """Runs everything with `on_disconnect = linger`, and acknowledges it."""

    async def run(self, attempt: Attempt, host: Host, command: Command, sink: Sink) -> Result | EndedByHost:
        try:
            return await super().run(attempt, host, replace(command, on_disconnect=OnDisconnect.LINGER), sink)
        finally:
            await self.ack(attempt, host)


class TestDurable(OverSsh):
    @pytest.fixture
    async def executor(self, sshd: Sshd) -> AsyncIterator[Ssh]:
        ssh = Lingering(sshd.settings())
        yield ssh
        await ssh.aclose()
