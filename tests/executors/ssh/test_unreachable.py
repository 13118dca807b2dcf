"""Hosts that cannot be reached, each with its own words and at its own cost only."""

import asyncio
import getpass
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from models.errors import UnreachableError
from models.values import Host
from tests.executors.ssh.running import Recorded, runner
from tests.servers.sshd import Sshd, run_sshd

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server that speaks as `serve` does; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0)  # every loopback address is a host
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def stay_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def greet_and_stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-Silent\r\n")
    while await reader.read(1024):
        pass


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reason(sshd: Sshd, host: Host, **settings: object) -> str:
    async with runner(sshd.settings(**settings)) as run:
        with pytest.raises(UnreachableError) as caught:
            await run(host, "true")
    return caught.value.reason


async def test_refused(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert await reason(sshd, sshd.host(port=port)) == f"connection refused by 127.0.0.1:{port}"


async def test_a_name_that_does_not_resolve(sshd: Sshd) -> None:
    said = await reason(sshd, sshd.host(address="no-such-host.invalid"))
    assert said.startswith("the name does not resolve: no-such-host.invalid")


async def test_no_ssh_server(sshd: Sshd) -> None:
    async with listening(speak_http) as port:
        said = await reason(sshd, sshd.host(port=port))
    assert "is no SSH server: it says 'HTTP/1.1 400 Bad Request'" in said


async def test_closed_before_the_banner_is_tried_again_and_then_explained(sshd: Sshd) -> None:
    async with listening(hang_up) as port:
        said = await reason(sshd, sshd.host(port=port), connect_timeout=1)
    assert "closed the connection before its banner" in said


@pytest.mark.parametrize(("serve", "step"), [(stay_silent, "waiting for its banner"), (greet_and_stay_silent, "exchanging keys")])
async def test_a_silent_host_costs_its_own_time_alone(sshd: Sshd, serve: Serve, step: str) -> None:
    async with listening(serve) as port, runner(sshd.settings()) as run:
        silent = [sshd.host(f"silent{number}", f"127.0.0.{number + 1}", port=port) for number in range(30)]
        sinks = [Recorded() for _ in silent]

        async def give_up_after(seconds: float, host: Host, sink: Recorded) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await run(host, "true", sink)

        waiting = [asyncio.create_task(give_up_after(8, host, sink)) for host, sink in zip(silent, sinks, strict=True)]
        await asyncio.sleep(0)
        assert await asyncio.gather(*(run.read(host, "echo hi") for host in sshd.fleet(5))) == [b"hi\n"] * 5
        assert not any(task.done() for task in waiting), "nobody waited for a silent host"
        await asyncio.gather(*waiting)
        assert sinks[0].steps[-1] == step


async def test_a_run_may_give_a_host_more_time_than_the_settings_do(sshd: Sshd) -> None:
    async def hesitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        theirs, ours = await asyncio.open_connection("127.0.0.1", sshd.port)
        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))

    async with listening(hesitate) as port, runner(sshd.settings(connect_timeout=0.3)) as run:
        host = sshd.host("127.0.0.1", port=port)
        with pytest.raises(UnreachableError, match="waiting for its banner"):
            await run(host, "true")
        assert await run.read(replace(host, connect_timeout=20), "echo hi") == b"hi\n"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_a_host_silent_in_mid_authentication(tmp_path) -> None:
    slow = ["AuthorizedKeysCommand /bin/sleep 30", f"AuthorizedKeysCommandUser {getpass.getuser()}", "AuthorizedKeysFile none"]
    with run_sshd(tmp_path / "sshd", slow) as sshd:
        sink = Recorded()
        async with runner(sshd.settings()) as run:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await run(sshd.host(), "true", sink)
        assert sink.steps[-1] == "logging in"


async def test_an_open_connection_that_falls_silent(sshd: Sshd) -> None:
    sink = Recorded()
    async with runner(sshd.settings()) as run:
        await run(sshd.host(), "true")
        stopped = sshd.sessions()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await run(sshd.host(), "true", sink)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert sink.steps[-1] == "opening a session"
        assert await run.read(sshd.host(), "echo again") == b"again\n"
