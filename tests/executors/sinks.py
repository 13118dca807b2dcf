"""Sinks that tests give to executors."""

from models.values import Stream


class Collector:
    """A sink that keeps what comes."""

    def __init__(self) -> None:
        self.chunks: dict[Stream, list[bytes]] = {stream: [] for stream in Stream}
        self.gaps = dict.fromkeys(Stream, 0)
        self.has_started = False

    async def starting(self) -> None:
        self.has_started = True

    def step(self, what: str) -> None:
        assert what

    def allow(self, seconds: float) -> None:
        assert seconds > 0

    def output(self, stream: Stream, data: bytes) -> None:
        assert data
        self.chunks[stream].append(data)

    def left_out(self, stream: Stream, size: int) -> None:
        self.gaps[stream] += size

    @property
    def stdout(self) -> bytes:
        return b"".join(self.chunks[Stream.STDOUT])

    @property
    def stderr(self) -> bytes:
        return b"".join(self.chunks[Stream.STDERR])


class Counter(Collector):
    """A sink that only counts."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = dict.fromkeys(Stream, 0)

    def output(self, stream: Stream, data: bytes) -> None:
        self.sizes[stream] += len(data)


class Refusing(Collector):
    """A sink whose commit fails."""

    async def starting(self) -> None:
        raise RuntimeError("the database is gone")
