"""The contract over SSH, by durable runs."""

import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from executors.protocol import Sink
from executors.ssh.executor import Ssh
from models.values import Attempt, Command, EndedByHost, Host, OnDisconnect, Result
from tests.executors.contract import Runner
from tests.executors.ssh.test_contract import TestSsh as OverSsh
from tests.servers.sshd import Sshd
from tests.until import until


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

    async def test_the_first_run_on_a_host_has_old_tombstones_swept(self, run: Runner, home: Path) -> None:
        tombs = home / ".fleetflow" / "acked"
        tombs.mkdir(parents=True, exist_ok=True)
        old = tombs / str(uuid.uuid4())
        old.touch()
        os.utime(old, (0, time.time() - 8 * 86400))
        assert (await run("true"))[0] == 0
        until(lambda: not old.exists(), 5)
