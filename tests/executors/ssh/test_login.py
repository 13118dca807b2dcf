"""How we log in, and what is said when we may not."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from models.errors import AuthenticationError, UnreachableError
from tests.executors.ssh.running import runner
from tests.programs import need
from tests.servers.passwords import Accounts, run_password_server
from tests.servers.sshd import Sshd, make_key, run_sshd
from tests.until import until


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that takes an encrypted key and nothing else."""
    folder = tmp_path_factory.mktemp("strict")
    with run_sshd(folder / "sshd") as server:
        server.identity = make_key(folder / "id_encrypted", passphrase="correct horse")
        (server.folder / "authorized_keys").write_text(server.identity.with_name("id_encrypted.pub").read_text())
        yield server


async def refusal(sshd: Sshd, config: str = "", **settings: object) -> str:
    async with runner(sshd.settings(config, **settings)) as run:
        with pytest.raises(UnreachableError) as caught:
            await run(sshd.host(), "true")
    return caught.value.reason


async def test_a_rejected_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "id_wrong")
    said = await refusal(sshd, ssh_identity=key)
    assert "accepts none of our credentials (tried publickey; keys: " in said
    assert str(key) in said


async def test_at_most_five_keys_are_offered(sshd: Sshd, tmp_path: Path) -> None:
    keys = [make_key(tmp_path / f"id_{number}") for number in range(7)]
    lines = "".join(f"  IdentityFile {key}\n" for key in keys[1:])
    said = await refusal(sshd, f"Host *\n{lines}", ssh_identity=keys[0])
    assert [str(key) in said for key in keys] == [True] * 5 + [False] * 2
    assert "2 more keys were not offered" in said


async def test_a_key_file_that_does_not_exist(sshd: Sshd, tmp_path: Path) -> None:
    assert await refusal(sshd, ssh_identity=tmp_path / "nothing") == f"key file {tmp_path}/nothing does not exist"


async def test_an_encrypted_key_opens_with_the_passphrase(strict: Sshd) -> None:
    async with runner(strict.settings(ssh_passphrase="correct horse")) as run:
        assert await run.read(strict.host(), "echo hi") == b"hi\n"


@pytest.mark.parametrize(("passphrase", "why"), [(None, "is encrypted; set FLEETFLOW_SSH_PASSPHRASE"), ("wrong", "does not open with")])
async def test_an_encrypted_key_that_does_not_open(strict: Sshd, passphrase: str | None, why: str) -> None:
    said = await refusal(strict, ssh_passphrase=passphrase)
    assert why in said
    assert "wrong" not in said


async def test_the_usual_key_files_are_tried(sshd: Sshd, home: Path) -> None:
    (home / ".ssh" / "id_ed25519").write_bytes(sshd.identity.read_bytes())
    async with runner(sshd.settings(ssh_identity=None)) as run:
        assert await run.read(sshd.host(), "echo hi") == b"hi\n"


@pytest.fixture
def agent(strict: Sshd, tmp_path: Path) -> Iterator[Path]:
    """An ssh-agent that holds the encrypted key."""
    path = tmp_path / "agent"
    process = subprocess.Popen([need("ssh-agent"), "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        until(path.exists, 5, "the socket of ssh-agent")
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho correct horse\n")
        ask.chmod(0o700)
        environ = os.environ | {"SSH_AUTH_SOCK": str(path), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", str(strict.identity)], env=environ, check=True, stdin=subprocess.DEVNULL)
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(5)


async def test_the_agent_is_asked(strict: Sshd, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    settings = strict.settings("Host *\n  IdentityAgent SSH_AUTH_SOCK\n")
    async with runner(settings) as run:
        assert await run.read(strict.host(), "echo hi") == b"hi\n"


async def test_identities_only_keeps_the_other_keys_of_the_agent_back(strict: Sshd, agent: Path, tmp_path: Path) -> None:
    said = await refusal(strict, f"Host *\n  IdentityAgent {agent}\n  IdentitiesOnly yes\n", ssh_identity=make_key(tmp_path / "id_other"))
    assert "agent key" not in said


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
async def test_a_password(sshd: Sshd, tmp_path: Path, method: str) -> None:
    known_hosts = tmp_path / "known_hosts"
    with run_password_server(known_hosts, lambda: Accounts("s3cret", (method,))) as port:
        config = f"Host *\n  UserKnownHostsFile {known_hosts}\n"
        async with runner(sshd.settings(config, ssh_password="s3cret", ssh_identity=None)) as run:
            assert await run.read(sshd.host(port=port), "echo hi") == b"hi\n"
        async with runner(sshd.settings(config, ssh_password="wr0ng", ssh_identity=None)) as run:
            with pytest.raises(AuthenticationError) as caught:
                await run(sshd.host(port=port), "true")
        assert method in caught.value.reason
        assert "wr0ng" not in caught.value.reason
        async with runner(sshd.settings(config, ssh_identity=None)) as run:
            with pytest.raises(AuthenticationError, match="tried nothing"):
                await run(sshd.host(port=port), "true")


async def test_a_key_and_then_a_password(sshd: Sshd, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    key = paramiko.PKey.from_path(sshd.identity)
    with run_password_server(known_hosts, lambda: Accounts("s3cret", ("password",), first=key)) as port:
        settings = sshd.settings(f"Host *\n  UserKnownHostsFile {known_hosts}\n", ssh_password="s3cret")
        async with runner(settings) as run:
            assert await asyncio.wait_for(run.read(sshd.host(port=port), "echo hi"), 10) == b"hi\n"
