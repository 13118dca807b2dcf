"""The hub's front door: what known agents say goes straight to where it is answered, and everything else to FastAPI."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hub.bodies import PATIENCE, Reply, refusal
from hub.sync import PATH, Caller, answer, recognise
from hub.wire import BODY_LIMIT

log = logging.getLogger(__name__)

_PATH = PATH.encode()


class Front(HttpToolsProtocol):
    """A connection as uvicorn makes it. The way through ASGI would cost an agent's request more than all that the hub does for it."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.url = b""  # at once: an attribute that comes later makes Python keep all of them in a dict, 1.5 KiB a connection
        self._visit: Visit | None = None  # the last request, where it was an agent's

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.cycle = self._visit = None  # type: ignore[assignment]  # they know this connection: all of it would wait for the garbage collector

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        if caller := self._recognise():
            self._visit = Visit(self, caller)
            self.headers = []  # ten thousand agents wait for their answers, and what they have said need not wait with them
            self.cycle = self._visit  # type: ignore[assignment]  # it is in the place of one, and has what is used of it
            return
        self._visit = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._visit is not None:
            self._visit.expect_rest()

    def _recognise(self) -> Caller | None:
        """The agent whose plain request this is; None where it is another's, or there is something special about it."""
        if self.url != _PATH or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        if self.expect_100_continue or not self.parser.should_keep_alive() or self.parser.should_upgrade():
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # it has not waited for its answer
        if any(name == b"prefer" for name, _ in self.headers):
            return None  # it waits for its approval
        authorization = next((value for name, value in self.headers if name == b"authorization"), b"")
        return recognise(self.app_state["hub"], authorization.decode("latin-1"))

    def send(self, reply: Reply, *, is_last: bool) -> None:
        """Write an answer whole, for each part would be a packet of its own."""
        head = [STATUS_LINE[reply.status], *(b"%s: %s\r\n" % header for header in self.server_state.default_headers)]
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(reply.body))
        head.append(b"connection: close\r\n\r\n" if is_last else b"\r\n")
        self.transport.write(b"".join([*head, reply.body]))
        if is_last:
            self.transport.close()


class Visit:
    """A request of a known agent and its answer, in the place of uvicorn's `RequestResponseCycle`, and its `message_event`."""

    __slots__ = ("_caller", "_front", "_late", "body", "disconnected", "keep_alive", "more_body", "response_complete")

    def __init__(self, front: Front, caller: Caller) -> None:
        self._front = front
        self._caller = caller
        self._late: asyncio.TimerHandle | None = None
        self.body = bytearray()
        self.more_body = True
        self.disconnected = self.response_complete = False
        self.keep_alive = True

    @property
    def message_event(self) -> "Visit":
        return self

    def set(self) -> None:
        """Something has come of the request, or it is all over."""
        if self.more_body and not self.disconnected:
            self._front.flow.resume_reading()
            if len(self.body) > BODY_LIMIT:
                self._refuse(refusal(413, f"a body has at most {BODY_LIMIT} bytes"))
            return
        if self._late is not None:
            self._late.cancel()
        if not (self.more_body or self.disconnected or self.response_complete):
            body, self.body = bytes(self.body), bytearray()
            task = self._front.loop.create_task(self._answer(answer(self._front.app_state["hub"], self._caller, body)))
            self._front.tasks.add(task)
            task.add_done_callback(self._front.tasks.discard)

    def expect_rest(self) -> None:
        """Give a body that did not come at once its time."""
        if self.more_body and self._late is None:
            self._late = self._front.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.more_body and not (self.disconnected or self.response_complete):
            self._refuse(refusal(408, "the body did not come"))

    def _refuse(self, reply: Reply) -> None:
        self.response_complete = True
        self._front.send(reply, is_last=True)

    async def _answer(self, answering: Awaitable[Reply]) -> None:
        try:
            reply = await answering
        except Exception:
            log.exception("a report of agent %s was not taken", self._caller.line.agent.name)
            reply = refusal(500, "the hub has failed; its log has the details")
        if self._front.flow.write_paused and not self.disconnected:
            await self._front.flow.drain()
        if self.disconnected:
            return
        self.response_complete = True
        self._front.send(reply, is_last=reply.is_last or not self.keep_alive)
        self._front.on_response_complete()
