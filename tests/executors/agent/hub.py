"""A small hub for tests of the agent program alone: it says what a test has queued, and keeps what the agent tells."""

import base64
import json
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.until import until

CREDENTIAL = "c" * 64
AGENT = str(uuid.uuid4())
Message = dict[str, Any]
_REPORTED = frozenset({"held", "accepted", "refused", "output", "done"})  # what makes a poll a report as well, which is answered at once


@dataclass
class Told:
    """What the hub has stored of one attempt."""

    words: list[str] = field(default_factory=list)
    reason: str = ""
    done: Message | None = None
    streams: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    gaps: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"stdout": [], "stderr": []})

    @property
    def stdout(self) -> bytes:
        return bytes(self.streams["stdout"])

    @property
    def stderr(self) -> bytes:
        return bytes(self.streams["stderr"])

    @property
    def offsets(self) -> dict[str, int]:
        return {stream: len(data) for stream, data in self.streams.items()}


class Hub:
    """Answers join and sync. Commands go at once unless `is_slow`; what is done is acknowledged unless `keeps`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.told: dict[str, Told] = {}
        self.orders: list[Message] = []  # what is said in the next answers
        self.syncs: list[Message] = []
        self.patience: list[str] = []  # of each sync: how long its answer may be held before the agent is approved
        self.known: list[list[Message]] = []
        self.is_slow = False
        self.keeps = False
        self.drops = 0  # answers of reports that are thrown away, after all was stored
        self.forgets_noted = 0  # answers that say nothing of what was stored
        self.error: tuple[int, Message] | None = None
        self.credential = CREDENTIAL
        self.addresses: list[str] = []
        self.joins: list[Message] = []
        self.is_closing = False
        self.is_away = False  # connections break off, and nothing is stored
        self._polls = 0

    # What a test does

    def command(self, script: str, attempt: str | None = None, **options: object) -> str:
        """Send a command; the id of its attempt."""
        attempt = attempt or str(uuid.uuid4())
        spec = {"id": attempt, "script": script, "interpreter": [], "arguments": [], "env": {}, "cwd": None, "stdin_b64": ""}
        spec |= {"become": None, "become_password": None, "umask": None, "timeout": None, "grace": 0.5, "output_limit": 1024 * 1024}
        self.order(commands=[spec | options])
        return attempt

    def order(self, **orders: object) -> None:
        with self.changed:
            self.orders.append(orders)
            self.changed.notify_all()

    def wait_for(self, attempt: str, *words: str, seconds: float = 30) -> Told:
        """What was told of an attempt, once it has said one of these words."""
        until(lambda: set(words) & set(self[attempt].words), seconds, f"{words} of {attempt}, which said {self[attempt]}")
        return self[attempt]

    def __getitem__(self, attempt: str) -> Told:
        with self.changed:
            return self.told.setdefault(attempt, Told())

    # What the agent gets

    def join(self, message: Message) -> tuple[int, Message]:
        self.joins.append(message)
        if message["token"] != "good":
            return 403, {"error": "the token is unknown"}
        return 200, {"agent": AGENT, "credential": self.credential, "state": "approved", "generation": 1}

    def sync(self, message: Message, token: str, lives: Callable[[], bool], patience: str = "") -> tuple[int, Message] | None:
        """The answer; None when it is to get lost."""
        with self.changed:
            self.syncs.append(message)
            self.patience.append(patience)
            if token != f"Bearer {AGENT}.{self.credential}":
                return 401, {"error": "unknown or revoked", "retry": 0.2}
            if self.error:
                return self.error
            answer = self._store(message)
            if "known" in message:
                self.known.append(message["known"])
            reports = bool(message.keys() & _REPORTED)
            if reports and self.drops:
                self.drops -= 1
                return None
            if "wait" in message:
                if not self._is_newest_poll(0 if reports else message["wait"]) or not lives():
                    return None
                for order in self.orders:
                    for key, value in order.items():
                        answer[key] = answer.get(key, []) + value if isinstance(value, list) else value
                self.orders.clear()
        return 200, {"v": 1, "poll": 0} | answer

    def _is_newest_poll(self, seconds: float) -> bool:
        """Hold a poll until there is something to say, or another one comes: this one's agent is gone."""
        self._polls += 1
        mine = self._polls
        self.changed.notify_all()
        self.changed.wait_for(lambda: self.orders or self.is_closing or self.is_away or self._polls != mine, seconds)
        return self._polls == mine and not self.is_away

    def _store(self, message: Message) -> Message:
        noted: list[str] = []
        go: list[str] = []
        acks: list[str] = []
        seen: set[str] = set()
        for piece in message.get("output", ()):
            seen.add(piece["id"])
            self._take(piece)
        for key in ("held", "accepted"):
            for attempt in message.get(key, ()):
                self._say(attempt, key)
                noted.append(attempt)
                if key == "held" and not self.is_slow:
                    go.append(attempt)
        for item in message.get("refused", ()):
            self._say(item["id"], "unknown" if item.get("unknown") else "refused")
            self.told[item["id"]].reason = item["reason"]
            noted.append(item["id"])
            acks.append(item["id"])
        for item in message.get("done", ()):
            told = self.told.setdefault(item["id"], Told())
            if all(size >= item[stream] for stream, size in told.offsets.items()):
                told.done = told.done or item
                self._say(item["id"], "done")
                noted.append(item["id"])
                acks.append(item["id"])
        if self.forgets_noted and noted:
            self.forgets_noted -= 1
            noted = []
        return {
            "stored": [{"id": attempt, **self.told[attempt].offsets} for attempt in seen],
            "noted": noted,
            "go": go,
            "acks": [] if self.keeps else acks,
        }

    def _say(self, attempt: str, word: str) -> None:
        self.told.setdefault(attempt, Told()).words.append(word)

    def _take(self, piece: Message) -> None:
        told = self.told.setdefault(piece["id"], Told())
        data, offset, gap = base64.b64decode(piece["data_b64"]), piece["offset"], piece.get("gap", 0)
        stream = told.streams[piece["stream"]]
        if gap and offset - gap == len(stream):
            told.gaps[piece["stream"]].append((len(stream), gap))
            stream += bytes(gap)
        if offset <= len(stream) < offset + len(data):
            stream += data[len(stream) - offset :]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.hub.is_away:
            self.close_connection = True
            return
        if self.path == "/agent/v1/join":
            answer: tuple[int, Message] | None = self.hub.join(body)
        else:
            answer = self.hub.sync(body, self.headers["Authorization"], self._lives, self.headers["Prefer"] or "")
        if answer is None or self.hub.is_closing:
            self.close_connection = True
            return
        data = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _lives(self) -> bool:
        """Whether the agent is still there to hear the answer."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except (BlockingIOError, ssl.SSLError, ValueError):
            return True
        except OSError:
            return False

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)


@contextmanager
def serve(hub: Hub, port: int = 0, wrap: Any = None) -> Iterator[str]:
    """Run a hub; its address."""
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": hub}))
    if wrap:
        server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.is_closing = False
    try:
        yield f"{'https' if wrap else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        with hub.changed:
            hub.is_closing = True
            hub.changed.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()
