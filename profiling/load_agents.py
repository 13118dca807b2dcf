"""Simulated agents: thousands in one process, with the connections, messages, pauses and back-off of the real program.

    load_agents.py URL TOKEN --count 5000 --seconds 300 [--name load-] [--first 1] [--source 127.0.0.2] [--fingerprint SHA256]

Every command is answered as by a host that runs `true`: held, and done when the hub says go. Each line on stdin is answered by a line of
JSON on stdout: `figures` (which begins to count anew) and `drop N` (N agents lose their connections, and come back). Ends after
`--seconds`, or when stdin does.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
import uuid
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from load_wire import Address, Wire

from executors.agent import program

_JOINS = 32  # at once
_HOLD = 30.0  # seconds that the hub may let a poll wait
_CONNECT = 10.0  # seconds
_NEW = frozenset({401, 403, 409, 426})  # after which an agent says anew what it knows
_FREE = program.Limits().commands


@dataclass
class Figures:
    """What a process has seen since it was last asked. Times are seconds, moments are since the epoch."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))  # of polls: until the answer, without what the hub held them
    syncs: int = 0
    failures: Counter[int] = field(default_factory=Counter)  # requests without a good answer, by status; 0: without any
    commands: int = 0  # taken
    ended: int = 0  # told, and noted by the hub
    first_command_at: float = 0.0
    last_command_at: float = 0.0
    last_ended_at: float = 0.0


class Fleet:
    """All agents of this process."""

    def __init__(self, address: Address, token: str) -> None:
        self.address = address
        self.context = address.context
        self.token = token
        self.figures = Figures()
        self.online = 0
        self.joined = 0
        self.changed_at = time.time()  # when an agent last came or went
        self.facts = json.dumps(program.facts())[1:-1].encode()
        self.telemetry = json.dumps(program.telemetry(Path("/"), 0)).encode()
        self.agents: list[Agent] = []

    async def enrol(self, names: list[str]) -> None:
        """Join under these names, and begin to poll."""
        waiting = deque(names)

        async def join_some() -> None:
            while waiting:
                agent = Agent(self, waiting.popleft())
                await agent.join()
                self.agents.append(agent)
                self.joined += 1

        await asyncio.gather(*(join_some() for _ in range(_JOINS)))

    def drop(self, count: int) -> None:
        """Break the connections of the first so many agents: each comes back as after a lost hub."""
        for agent in self.agents[:count]:
            agent.lose()

    def answer(self) -> dict[str, Any]:
        """The figures, as JSON takes them; counts anew from here on."""
        figures, self.figures = self.figures, Figures()
        return {
            **{name: value for name, value in vars(figures).items() if name != "latencies"},
            "latencies": list(figures.latencies),
            "joined": self.joined,
            "online": self.online,
            "changed_at": self.changed_at,
        }


class Agent:
    """One agent: it polls on one connection, and reports on another what no poll takes along."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self.name = name
        self._token = b""
        self._base = b""
        self._poll = _Line(self, waits=True)
        self._report = _Line(self, waits=False)
        self._is_new = True
        self._is_online = False
        self._expects = False  # the next poll takes along what is to be said
        self._teller: _Line | None = None  # by which something is being said
        self._has_news = False  # the poll under way takes something along
        self._quick = 0
        self._began = 0.0
        self._runs: dict[str, str] = {}  # attempts, and what is to be said of each; "" when it was noted
        self._told: dict[str, str] = {}  # in the report under way

    async def join(self) -> None:
        """Enrol, again until it is done."""
        said = {"v": 1, "token": self._fleet.token, "name": self.name, "machine": self.name, "version": program.VERSION, "facts": {}}
        backoff = program.Backoff()
        while True:
            answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
            wire = Wire(self._fleet.address, self._fleet.context, _CONNECT)
            wire.post(b"/agent/v1/join", b"", json.dumps(said).encode(), lambda *both, answer=answer: answer.set_result(both))  # type: ignore[misc]  # mypy cannot infer a default
            status, body = await answer
            wire.close()
            if status == 200:
                break
            if status not in (0, 503):
                raise SystemExit(f"the hub refuses {self.name}: {status} {body.decode()}")
            await asyncio.sleep(backoff.next())
        joined = json.loads(body)
        self._token = f"{joined['agent']}.{joined['credential']}".encode()
        self._base = b'"v":1,"boot":"%s","session":"%s","generation":1,"version":"%s"' % (
            program.boot_id().encode(), uuid.uuid4().hex.encode(), program.VERSION.encode(),
        )  # fmt: skip
        self.poll()

    def poll(self) -> None:
        """Ask what there is to do."""
        news = self._gather(self._poll) if self._expects and self._is_online and not (self._is_new or self._report.again) else b""
        self._expects, self._has_news = False, bool(news)
        wait = _HOLD if self._is_online and not self._is_new else 0.0
        self._began = time.monotonic()
        self._poll.send(b'"wait":%g,"telemetry":%s%s' % (wait, self._fleet.telemetry, news))

    def message(self, rest: bytes, *, again: bool) -> bytes:
        """A body, with what every message says."""
        parts = [self._base, b'"free":%d' % max(0, _FREE - len(self._runs))]
        if self._is_new:
            known = [{"id": attempt, "state": _KNOWN.get(word, "done")} for attempt, word in self._runs.items()]
            parts += [b'"known":' + json.dumps(known).encode(), b'"machine":"%s"' % self.name.encode(), b'"facts":{%s}' % self._fleet.facts]
        if again:
            parts.append(b'"again":true')
        return b"{%s}" % b",".join([*parts, rest] if rest else parts)

    def heard(self, line: "_Line", answer: dict[str, Any]) -> None:
        """Do what the hub says."""
        figures = self._fleet.figures
        figures.syncs += 1
        self._is_new = answer.get("tell") is True
        if line is self._teller:
            self._teller = None
        if line is self._poll:
            self._polled(answer)
        for command in answer.get("commands", ()):
            self._take(command["id"])
        for attempt in answer.get("noted", ()):
            if self._told.get(attempt) == self._runs.get(attempt) == "done":
                figures.ended += 1
                figures.last_ended_at = time.time()
            if attempt in self._runs and self._told.get(attempt) == self._runs[attempt]:
                self._runs[attempt] = ""
        for attempt in answer.get("go", ()):
            self._runs[attempt] = "done"
        for attempt in (*answer.get("cancels", ()), *answer.get("ask", ())):
            self._runs[attempt] = "done" if attempt in self._runs else "unknown"
        for attempt in answer.get("acks", ()):
            self._runs.pop(attempt, None)
        self.say()

    def _polled(self, answer: dict[str, Any]) -> None:
        took = time.monotonic() - self._began
        if not self._has_news:  # else the hub has stored something, and waited for the word to go
            self._fleet.figures.latencies.append(max(0.0, took - answer["held"]))
        if not self._is_online:
            self._is_online = True
            self._fleet.online += 1
            self._fleet.changed_at = time.time()
        self._expects = bool(answer.get("commands") or answer.get("go"))
        self._quick = self._quick + 1 if took < 0.05 and not (self._expects or self._has_news) else 0
        self._poll.rest(min(1.0, self._quick * 0.02), self.poll)

    def _take(self, attempt: str) -> None:
        figures = self._fleet.figures
        figures.commands += 1
        figures.last_command_at = time.time()
        figures.first_command_at = figures.first_command_at or figures.last_command_at
        self._runs[attempt] = "held"

    def say(self) -> None:
        """Report what no poll takes along."""
        if self._is_online and not (self._expects or self._report.is_busy) and (news := self._gather(self._report)):
            self._report.send(news[1:])

    def _gather(self, line: "_Line") -> bytes:
        """What is to be said, by this line; nothing while something is being said."""
        due = {attempt: word for attempt, word in self._runs.items() if word}
        if not due or self._teller is not None:
            return b""
        self._told, self._teller = due, line
        message: dict[str, list[Any]] = {}
        for attempt, word in due.items():
            key, said = _SAYINGS[word](attempt)
            message.setdefault(key, []).append(said)
        return b"," + json.dumps(message)[1:-1].encode()

    def failed(self, line: "_Line", status: int, retry: float | None) -> None:
        """No good answer: try again when it is time."""
        self._fleet.figures.failures[status] += 1
        if status in _NEW:
            self._is_new = True
        if line is self._teller:
            self._teller = None
        self.lost(line)
        wait = line.backoff.next() if retry is None else retry * (1 + program.chance() / 10) + 0.05
        line.rest(wait, self.poll if line is self._poll else self.say)

    def lost(self, line: "_Line") -> None:
        """The connection broke, or its answer was none; an agent is online again with the next answer to its poll."""
        if line is self._poll and self._is_online:
            self._is_online = False
            self._fleet.online -= 1
            self._fleet.changed_at = time.time()

    def lose(self) -> None:
        """As when the network breaks."""
        for line in (self._poll, self._report):
            line.lose()

    def post(self, wire: Wire, body: bytes, answered: Any) -> None:
        wire.post(b"/agent/v1/sync", self._token, body, answered)

    def wire(self) -> Wire:
        return Wire(self._fleet.address, self._fleet.context, _CONNECT)


_KNOWN = {"held": "held"}
_SAYINGS = {
    "held": lambda attempt: ("held", attempt),
    "done": lambda attempt: ("done", {"id": attempt, "exit_code": 0, "ended": None, "error": None, "stdout": 0, "stderr": 0}),
    "unknown": lambda attempt: ("refused", {"id": attempt, "reason": "this agent does not know it", "unknown": True}),
}


class _Line:
    """One of an agent's two connections."""

    def __init__(self, agent: Agent, *, waits: bool) -> None:
        self._agent = agent
        self._patience = _HOLD + 15 if waits else 30.0
        self._wire = agent.wire()
        self._rest = b""
        self._was_open = False
        self._deadline: asyncio.TimerHandle | None = None
        self.backoff = program.Backoff()
        self.again = False
        self.is_busy = False

    def send(self, rest: bytes) -> None:
        self._rest, self.is_busy, self._was_open = rest, True, self._wire.is_open
        self._deadline = asyncio.get_running_loop().call_later(self._patience, self.lose)
        self._agent.post(self._wire, self._agent.message(rest, again=self.again), self._answered)

    def rest(self, seconds: float, then: Any) -> None:
        """Do nothing for so long."""
        self.is_busy = True
        asyncio.get_running_loop().call_later(seconds, self._go_on, then)

    def lose(self) -> None:
        """The connection breaks."""
        self._wire.close()
        self._wire = self._agent.wire()
        if self._deadline is not None:
            self._answered(0, b"")

    def _go_on(self, then: Any) -> None:
        self.is_busy = False
        then()

    def _answered(self, status: int, body: bytes) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if status == 200:
            self.backoff.reset()
            self.again = self.is_busy = False
            self._agent.heard(self, json.loads(body))
        elif status == 0 and self._was_open:  # it was idle, and may have been closed meanwhile: once more, over a new one
            self.again = True
            self._agent.lost(self)
            self.send(self._rest)
        else:
            self.again = self.again or status == 0
            told = json.loads(body) if body.startswith(b"{") else {}
            self._agent.failed(self, status, told.get("retry"))


async def _serve(fleet: Fleet, names: list[str], seconds: float) -> None:
    """Enrol, and answer what is asked on stdin."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    enrolling = loop.create_task(fleet.enrol(names))
    enrolling.add_done_callback(lambda done: done.result())
    try:
        async with asyncio.timeout(seconds):
            while line := (await reader.readline()).split():
                if line[0] == b"drop":
                    fleet.drop(int(line[1]))
                print(json.dumps(fleet.answer()), flush=True)
    except TimeoutError:
        pass
    enrolling.cancel()


def main() -> None:
    """Read the arguments, and live as long as they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--name", default="load-")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--source")
    parser.add_argument("--fingerprint", help="of the hub's certificate; empty: any")
    options = parser.parse_args()
    gc.disable()  # what it takes would be measured as the hub's
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parts = urlsplit(options.url)
    fingerprint = (options.fingerprint or "") if parts.scheme == "https" else None
    fleet = Fleet(Address(parts.hostname or "127.0.0.1", parts.port or 443, fingerprint, options.source), options.token)
    names = [f"{options.name}{number}" for number in range(options.first, options.first + options.count)]
    uvloop.run(_serve(fleet, names, options.seconds))
    sys.stdout.flush()
    os._exit(0)  # ten thousand connections are not closed one by one


if __name__ == "__main__":
    main()
