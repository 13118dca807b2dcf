"""Senders that mean no good: bodies without an end, requests that never come, paths that try to pass the door."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from models.records import Piece, Printed, Started
from models.tokens import Role
from models.values import Stream
from tests.hub.agents import SmallAgent
from tests.hub.api import Api
from tests.hub.conftest import Enrol
from tests.models.test_store import OWNER, spec
from tests.servers.hub import Hub, run_hub
from tests.until import until

_MIB = 1024 * 1024
_ROOM = 48 * _MIB  # bytes by which the hub may have grown
_SCARCE = """import resource, sys
from hub import serve
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
serve.main(*map(int, sys.argv[1:]))"""


@pytest.fixture(scope="module")
def api(hub: Hub) -> Iterator[Api]:
    made = Api(hub)
    yield made
    made.close()


def memory(hub: Hub) -> int:
    assert hub.process is not None
    lines = Path(f"/proc/{hub.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


@contextmanager
def connected(hub: Hub) -> Iterator[socket.socket]:
    where = urlsplit(hub.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as wire:
        yield wire


@pytest.mark.parametrize("path", ["/api/v1/tasks", "/agent/v1/sync", "/agent/v1/join"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_a_hundred_mebibytes_is_refused_and_takes_no_memory(api: Api, path: str, *, chunked: bool) -> None:
    before = memory(api.hub)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {100 * _MIB}"
    piece = b"x" * 65536
    sent = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    with connected(api.hub) as wire:
        wire.sendall(f"POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {api.clear[Role.ADMIN]}\r\n{length}\r\n\r\n".encode())
        with suppress(OSError):  # it hangs up on us
            for _ in range(100 * _MIB // len(piece)):
                wire.sendall(sent)
        with suppress(OSError):
            answer = wire.recv(4096)
            assert answer.split(b" ", 2)[1:2] in ([], [b"413"], [b"401"])
    assert memory(api.hub) - before < _ROOM
    assert api("GET", "/tasks").status_code == 200


def test_those_who_send_slowly_or_nothing_hold_nobody_up(api: Api) -> None:
    begin = f"POST /api/v1/tasks HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {api.clear[Role.ADMIN]}\r\nContent-Length: 100\r\n\r\n{{"
    with ExitStack() as held:
        for number in range(200):
            wire = held.enter_context(connected(api.hub))
            wire.sendall(begin.encode() if number % 2 else b"GET /api/v1/tasks HTT")
        began = time.monotonic()
        assert api("GET", "/tasks").status_code == 200
        assert time.monotonic() - began < 10
    assert api("GET", "/tasks").status_code == 200


def test_those_who_do_not_read_hold_no_memory(api: Api) -> None:
    task = api.store.open_task(spec("web1"), OWNER)
    (claim,) = api.store.claim(task.id, OWNER)
    api.store.write([Started(claim, 1.0)])
    for number in range(32):
        api.store.write([Printed(claim, (Piece(Stream.STDOUT, number * _MIB, b"z" * _MIB),))])
    where = f"/tasks/{task.id}/executions/web1/output"
    ask = f"GET /api/v1{where}/live HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {api.clear[Role.VIEWER]}\r\n\r\n"
    grown: list[int] = []
    with ExitStack() as held:
        for _ in range(6):  # the first ones make threads and connections to the database
            for _ in range(20):
                held.enter_context(connected(api.hub)).sendall(ask.encode())
            for _ in range(3):
                assert api("GET", where, params={"limit": _MIB}).status_code == 200
            grown.append(memory(api.hub))
    assert grown[-1] - grown[2] < _ROOM  # 60 streams of 32 MiB


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/tasks/", "//api/v1/tasks", "/api//v1/tasks", "/api/v1/../v1/tasks", "/API/v1/tasks", "/%61pi/v1/tasks", "/api%2fv1/tasks",
        "/api/v1/tasks;x", "/api/v1/tasks%00", "/x/../api/v1/tasks", "/agent/../api/v1/tasks", "/api/v1/tasks?token=1",
        "/api/v1/openapi.json", "http://h/api/v1/tasks", "/./api/v1/tasks", "/api/v1/%74asks", "/docs", "/redoc", "/openapi.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT"])
def test_no_path_leads_past_the_door(api: Api, method: str, path: str) -> None:
    with connected(api.hub) as wire:
        wire.sendall(f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert int(answer.split(b" ", 2)[1]) in {307, 400, 401, 404, 405}, answer
    assert b'"items"' not in answer


def test_a_session_of_one_agent_is_nothing_to_the_api_and_the_other_way_round(api: Api) -> None:
    for headers in ({"Authorization": f"Bearer {api.clear[Role.ADMIN]}"}, {"Cookie": f"fleetflow={api.clear[Role.ADMIN]}"}):
        assert httpx.post(f"{api.hub.url}/agent/v1/sync", json={"v": 1}, headers=headers, trust_env=False).status_code == 401


def request(agent: SmallAgent, body: bytes, *more: str, version: str = "1.1", length: str = "") -> bytes:
    """A request of an agent as it goes over the wire; `more` are lines of its head."""
    lines = [f"POST /agent/v1/sync HTTP/{version}", "Host: h", f"Authorization: Bearer {agent.id}.{agent.credential}", *more]
    return "\r\n".join([*lines, length or f"Content-Length: {len(body)}", "", ""]).encode() + body


def answers(wire: socket.socket) -> list[bytes]:
    """What comes until the hub hangs up, cut into answers."""
    return b"".join(iter(lambda: wire.recv(65536), b"")).split(b"HTTP/1.1 ")[1:]


async def test_an_agent_is_understood_however_its_requests_are_spelled_and_cut(hub: Hub, enrol: Enrol) -> None:
    agent = await enrol("spelled")
    body = b'{"v": 1, "boot": "b", "session": "s", "generation": 1, "version": "t", "wait": 0.5}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    close = "Connection: close"
    plain, last = request(agent, body), request(agent, body, close)
    asked = [
        (last, [b"200"]),
        (request(agent, chunks, close, length="Transfer-Encoding: chunked"), [b"200"]),
        (request(agent, chunks, length="Transfer-Encoding: chunked") + last, [b"200", b"200"]),
        (request(agent, body, version="1.0"), [b"200"]),
        (request(agent, body, close, "Expect: 100-continue"), [b"100", b"200"]),
        (plain + plain + last, [b"200", b"200", b"200"]),
        (plain + b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" + last, [b"200", b"200", b"200"]),
        (request(agent, b"{", close), [b"400"]),
    ]
    for sent, statuses in asked:
        for size in (len(sent), 50):
            with connected(hub) as wire:
                for begin in range(0, len(sent), size):
                    wire.sendall(sent[begin : begin + size])
                found = answers(wire)
            assert [answer[:3] for answer in found] == statuses, sent
            assert b'"tell": true' in found[-1] or statuses[-1] != b"200"


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_agents_body_has_its_limit_too(hub: Hub, enrol: Enrol, *, chunked: bool) -> None:
    agent = await enrol(f"long-{chunked}")
    piece = b"x" * 65536
    sent, length = (b"%x\r\n%s\r\n" % (len(piece), piece), "Transfer-Encoding: chunked") if chunked else (piece, "Content-Length: 9000000")
    with connected(hub) as wire:
        wire.sendall(request(agent, b"", length=length))
        with suppress(OSError):  # it hangs up on us
            for _ in range(9_000_000 // len(piece)):
                wire.sendall(sent)
        with suppress(ConnectionError):
            assert wire.recv(4096).startswith(b"HTTP/1.1 413 ")


async def test_where_descriptors_run_short_agents_keep_the_connection_of_their_poll_alone(tmp_path: Path) -> None:
    with (
        run_hub(tmp_path, program=("-c", _SCARCE)) as hub,
        httpx.Client(base_url=hub.url, trust_env=False) as client,
        ExitStack() as others,
    ):
        agent = SmallAgent(httpx.AsyncClient(base_url=hub.url, trust_env=False), "few")
        (await agent.join(hub.token())).raise_for_status()
        await agent.sync(known=[])

        async def is_kept(**said: object) -> bool:
            return (await agent.post(**said)).headers.get("connection") != "close"

        assert await is_kept(held=[])
        for _ in range(150):
            others.enter_context(connected(hub))
        until(lambda: client.get("/healthz").is_success)
        assert not await is_kept(held=[])
        assert await is_kept(wait=0, telemetry={})
        others.close()
        await agent.client.aclose()
