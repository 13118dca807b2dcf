"""Through jump hosts, each with its own address, user, key and known hosts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import HostKeyError, UnreachableError
from tests.executors.ssh.running import runner
from tests.servers.sshd import Sshd, run_sshd


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A jump host with keys of its own."""
    with run_sshd(tmp_path_factory.mktemp("bastion")) as server:
        yield server


def config(sshd: Sshd, bastion: Sshd, *more: str) -> str:
    hop = f"  Port {bastion.port}\n  IdentityFile {bastion.identity}\n  UserKnownHostsFile {bastion.known_hosts}\n"
    return f"Host bastion\n  HostName 127.0.0.1\n{hop}Host second\n  HostName 127.0.0.2\n{hop}" + "".join(f"{line}\n" for line in more)


async def test_one_hop_carries_many_hosts_over_one_connection(sshd: Sshd, bastion: Sshd) -> None:
    before = set(bastion.sessions())
    async with runner(sshd.settings(config(sshd, bastion, "Host 127.1.*\n  ProxyJump bastion"))) as run:
        printed = await asyncio.gather(*(run.read(host, "echo $SSH_CONNECTION") for host in sshd.fleet(20)))
        assert len(set(bastion.sessions()) - before) == 1
    assert {line.split()[0] for line in printed} == {b"127.0.0.1"}


async def test_two_hops(sshd: Sshd, bastion: Sshd) -> None:
    async with runner(sshd.settings(config(sshd, bastion))) as run:
        assert await run.read(sshd.host(jump="bastion,second"), "echo hi") == b"hi\n"
    assert "127.0.0.2" in bastion.log


async def test_none_goes_straight(sshd: Sshd, bastion: Sshd) -> None:
    settings = sshd.settings(config(sshd, bastion, "Host 127.0.0.1\n  ProxyJump no-such-host.invalid"))
    async with runner(settings) as run:
        assert await run.read(sshd.host(jump="none"), "echo hi") == b"hi\n"


async def test_a_jump_host_whose_key_is_not_known(sshd: Sshd, bastion: Sshd, tmp_path: Path) -> None:
    settings = sshd.settings(f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n  UserKnownHostsFile {tmp_path}/none\n")
    async with runner(settings) as run:
        with pytest.raises(HostKeyError):
            await run(sshd.host(jump="bastion"), "true")


async def test_a_host_that_its_jump_host_cannot_reach(sshd: Sshd, bastion: Sshd) -> None:
    async with runner(sshd.settings(config(sshd, bastion))) as run:
        with pytest.raises(UnreachableError, match="jump host"):
            await run(sshd.host(port=1, jump="bastion"), "true")
        assert await run.read(sshd.host(jump="bastion"), "echo hi") == b"hi\n"


async def test_jump_hosts_that_lead_round_in_a_circle(sshd: Sshd) -> None:
    async with runner(sshd.settings("Host *\n  ProxyJump bastion\n")) as run:
        with pytest.raises(UnreachableError, match=r"circle|itself"):
            await run(sshd.host(), "true")


async def test_the_connections_end_with_the_executor(sshd: Sshd, bastion: Sshd) -> None:
    before = set(bastion.sessions()) | set(sshd.sessions())
    async with runner(sshd.settings(config(sshd, bastion))) as run:
        await run(sshd.host(jump="bastion"), "true")
    async with asyncio.timeout(5):
        while (set(bastion.sessions()) | set(sshd.sessions())) - before:
            await asyncio.sleep(0.02)


async def test_a_proxy_command_is_refused_in_so_many_words(sshd: Sshd) -> None:
    async with runner(sshd.settings("Host *\n  ProxyCommand nc %h %p\n")) as run:
        with pytest.raises(UnreachableError, match="ProxyCommand is not supported; use ProxyJump"):
            await run(sshd.host(), "true")
