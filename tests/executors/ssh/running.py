"""Runs commands over SSH for tests, and keeps what was reported."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from executors.ssh.executor import Ssh
from models.settings import Settings
from models.values import Attempt, Command, Host, Result, Stream


@dataclass
class Recorded:
    """A sink that keeps everything."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    gaps: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    steps: list[str] = field(default_factory=list)
    streams: dict[Stream, bytearray] = field(default_factory=lambda: {stream: bytearray() for stream in Stream})

    def step(self, what: str) -> None:
        self.steps.append(what)

    def allow(self, seconds: float) -> None:
        assert seconds > 0

    async def starting(self) -> None:
        self.started.set()

    def output(self, stream: Stream, data: bytes) -> None:
        self.streams[stream] += data

    def left_out(self, stream: Stream, size: int) -> None:
        self.gaps[stream] += size

    @property
    def stdout(self) -> bytes:
        return bytes(self.streams[Stream.STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.streams[Stream.STDERR])

    async def printed(self, text: bytes, seconds: float = 10) -> None:
        """Wait until the command has printed `text`."""
        async with asyncio.timeout(seconds):
            while text not in self.stdout:
                await asyncio.sleep(0.01)


@dataclass
class Runner:
    """An executor, with the least one has to say to run something on it."""

    ssh: Ssh

    async def __call__(self, host: Host, script: str, sink: Recorded | None = None, **rest: object) -> Result:
        command = Command(script=script, **rest)
        return await self.ssh.run(Attempt(id=uuid.uuid4()), host, command, sink or Recorded())

    async def read(self, host: Host, script: str, **rest: object) -> bytes:
        """What a command printed; it has to succeed."""
        sink = Recorded()
        result = await self(host, script, sink, **rest)
        assert result.exit_code == 0, sink.stderr
        return sink.stdout


@asynccontextmanager
async def runner(settings: Settings) -> AsyncIterator[Runner]:
    ssh = Ssh(settings)
    try:
        yield Runner(ssh)
    finally:
        await ssh.aclose()
