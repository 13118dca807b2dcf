"""A small agent that speaks the protocol and runs nothing: tests say what it answers."""

import asyncio
import base64
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class SmallAgent:
    """One agent. `sync` is one request; `serve` answers commands as a host with endless patience would."""

    client: httpx.AsyncClient
    name: str
    id: str = ""
    credential: str = ""
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    boot: str = "boot"
    generation: int = 1
    has_told: bool = False  # what it knows, in this session
    known: dict[str, str] = field(default_factory=dict)

    async def join(self, token: str, machine: str = "") -> httpx.Response:
        answer = await self.client.post(
            "/agent/v1/join",
            json={"v": 1, "token": token, "name": self.name, "machine": machine or self.name, "version": "test", "facts": {"os": "test"}},
        )
        if answer.status_code == httpx.codes.OK:
            self.id, self.credential = answer.json()["agent"], answer.json()["credential"]
        return answer

    async def post(self, patience: float = 0, **said: object) -> httpx.Response:
        """One request; `patience` is for how many seconds it may be held while the agent waits for its approval."""
        body = {"v": 1, "boot": self.boot, "session": self.session, "generation": self.generation, "version": "test", "free": 4, **said}
        headers = {"Authorization": f"Bearer {self.id}.{self.credential}"} | ({"Prefer": f"wait={patience:g}"} if patience else {})
        return await self.client.post("/agent/v1/sync", json=body, headers=headers, timeout=60)

    async def sync(self, **said: object) -> dict[str, Any]:
        """One request, told first what this agent knows where the hub wants to hear it."""
        if not self.has_told:
            said["known"] = [{"id": one, "state": state} for one, state in self.known.items()]
        answer = await self.post(**said)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        self.has_told = not told.get("tell")
        return told

    async def hold(self, attempt: str) -> dict[str, Any]:
        """Say that a command is held, and wait for the word to go."""
        told = await self.sync(held=[attempt])
        assert told["noted"] == [attempt]
        return told if told.get("go") else await self.until("go")

    async def serve(self, output: bytes = b"hi\n", exit_code: int = 0) -> None:
        """Take every command and tell its end, for ever."""
        say: dict[str, list[Any]] = {}
        while True:
            told = await self.sync(wait=20, **say)
            say = {}
            held = [command["id"] for command in told.get("commands", ())]
            self.known.update(dict.fromkeys(held, "held"))
            if held:
                say["held"] = held
            for one in told.get("go", ()):
                self.known[one] = "done"
                say.setdefault("output", []).append(piece(one, 0, output))
                say.setdefault("done", []).append(done(one, len(output), exit_code))
            for one in told.get("cancels", ()):
                self.known[one] = "done"
                say.setdefault("done", []).append(done(one, 0, None, "canceled"))
            for one in told.get("acks", ()):
                self.known.pop(one, None)

    async def until(self, key: str, seconds: float = 10, **said: object) -> dict[str, Any]:
        """Poll until the hub says something of this kind."""
        async with asyncio.timeout(seconds):
            while not (told := await self.sync(wait=seconds, **said)).get(key):
                pass
        return told


def piece(attempt: str, offset: int, data: bytes, stream: str = "stdout", gap: int = 0) -> dict[str, object]:
    return {"id": attempt, "stream": stream, "offset": offset, "gap": gap, "data_b64": base64.b64encode(data).decode()}


def done(attempt: str, stdout: int, exit_code: int | None = 0, ended: str | None = None) -> dict[str, object]:
    return {"id": attempt, "exit_code": exit_code, "ended": ended, "stdout": stdout, "stderr": 0}
