"""A wrapper at work over pipes: what we would be to it over SSH."""

import os
import selectors
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from executors.lifeline import BEAT, GO, LOCAL_ARGV, Session, Wrapper
from models.values import Attempt, Command, Stream
from tests.executors.processes import marked, members

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}


class Wrapped:
    """One wrapper; `wrapper` makes what it is from the attempt, `server` is the parent of the one on whose clock it leans."""

    def __init__(
        self,
        sh: str,
        script: str,
        *,
        argv: list[str] | None = None,
        group: bool = True,
        attempt: Attempt | None = None,
        wrapper: Callable[[Attempt], Wrapper] = lambda _: Wrapper(),
        server: int | None = None,
        **options: object,
    ) -> None:
        self.attempt = attempt or Attempt(id=uuid.uuid4())
        timing = {"grace": options.pop("grace", 1), "beat_timeout": options.pop("beat_timeout", 30)}
        environment = ENVIRONMENT | options.pop("environment", {})
        self.session = Session(self.attempt, Command(script=script, **options), env={}, sh=sh, wrapper=wrapper(self.attempt), **timing)
        if server:
            self.session.share_clock(server=server)
        self.output = dict.fromkeys(Stream, b"")
        self.gaps: dict[Stream, list[tuple[int, int]]] = {stream: [] for stream in Stream}  # each its place in `output`, and its size
        pipe = subprocess.PIPE
        argv = argv or [sh, *LOCAL_ARGV[1:]]
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=group, env=environment)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ, Stream.STDOUT)
        self._selector.register(self.process.stderr, selectors.EVENT_READ, Stream.STDERR)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_deaf(self) -> bool:
        """Whether both streams have come to their end."""
        return not self._selector.get_map()

    def prepare(self) -> "Wrapped":
        with suppress(BrokenPipeError):  # what refuses does not read on
            self.send(self.session.payload)
        self.read_until(lambda: self.session.ready or self.session.refusal)
        return self

    def start(self) -> "Wrapped":
        self.prepare().send(GO)
        return self

    def send(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hang_up(self) -> None:
        self.process.stdin.close()

    def read_until(self, holds: Callable[[], object], seconds: float = 20, *, beat: float | None = None) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (
                f"waited {seconds} s in vain; output so far: { {stream: data[-200:] for stream, data in self.output.items()} }"
            )
            for key, _ in self._selector.select(beat or 0.05):
                self._read(key)
            if beat:
                with suppress(BrokenPipeError):  # it may have ended in the meantime
                    self.send(BEAT)

    def read_to_the_end(self, **options: float) -> int:
        self.read_until(lambda: self.session.exit_code is not None, **options)
        self.process.wait(timeout=10)
        return self.session.exit_code

    def _read(self, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, 65536)
        if not data:
            self._selector.unregister(key.fileobj)
        for piece in self.session.pieces(key.data, data):
            if isinstance(piece, bytes):
                self.output[key.data] += piece
            else:
                self.gaps[key.data].append((len(self.output[key.data]), piece))
        if reply := self.session.reply():
            self.send(reply)

    def vanish(self) -> None:
        """Be gone as a client is whose connection was reset."""
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                pipe.close()

    def close(self) -> None:
        self._selector.close()
        for pid in [*marked(self.attempt), *members(self.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                pipe.close()
