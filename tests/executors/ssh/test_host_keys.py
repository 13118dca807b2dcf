"""Whom we talk to: the host's key is judged before anything of ours is sent."""

import socket
import threading
from pathlib import Path

import paramiko
import pytest

from models.errors import HostKeyError
from models.values import HostKeyPolicy
from tests.executors.ssh.running import runner
from tests.servers.sshd import Sshd, make_key


def known(sshd: Sshd, folder: Path, *lines: str) -> str:
    """A client configuration whose known_hosts has just these lines."""
    path = folder / "known_hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return f"Host *\n  UserKnownHostsFile {path}\n"


async def refusal(sshd: Sshd, config: str, **settings: object) -> str:
    async with runner(sshd.settings(config, **settings)) as run:
        with pytest.raises(HostKeyError) as caught:
            await run(sshd.host(), "true")
    return caught.value.reason


def other_key(folder: Path, kind: str) -> str:
    return " ".join(make_key(folder / f"other_{kind}", kind).with_suffix(".pub").read_text().split()[:2])


async def test_a_host_that_is_not_known(sshd: Sshd, tmp_path: Path) -> None:
    assert "is not known" in await refusal(sshd, known(sshd, tmp_path))


async def test_a_changed_key(sshd: Sshd, tmp_path: Path) -> None:
    line = f"[127.0.0.1]:{sshd.port} {other_key(tmp_path, 'ed25519')}"
    said = await refusal(sshd, known(sshd, tmp_path, line))
    assert "has changed" in said
    assert "known_hosts:1" in said
    assert "has changed" in await refusal(sshd, known(sshd, tmp_path, line), ssh_host_key=HostKeyPolicy.ACCEPT_NEW)


async def test_a_host_known_by_another_type_of_key_is_not_called_changed(sshd: Sshd, tmp_path: Path) -> None:
    line = f"[127.0.0.1]:{sshd.port} {sshd.public_key('rsa')}"
    said = await refusal(sshd, known(sshd, tmp_path, line) + "  HostKeyAlgorithms ssh-ed25519\n")
    assert "of a type not known for it" in said


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_a_host_with_several_keys_is_asked_for_the_one_that_is_known(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    line = f"[127.0.0.1]:{sshd.port} {sshd.public_key(kind)}"
    async with runner(sshd.settings(known(sshd, tmp_path, line))) as run:
        assert await run.read(sshd.host(), "echo hi") == b"hi\n"


async def test_accept_new_writes_the_key_down_once(sshd: Sshd, tmp_path: Path) -> None:
    config = known(sshd, tmp_path)
    async with runner(sshd.settings(config, ssh_host_key=HostKeyPolicy.ACCEPT_NEW)) as run:
        await run.read(sshd.host(), "true")
    async with runner(sshd.settings(config)) as run:
        await run.read(sshd.host(), "true")
    assert (tmp_path / "known_hosts").read_text() == f"[127.0.0.1]:{sshd.port} {sshd.public_key()}\n"


async def test_off_accepts_a_changed_key_but_never_a_revoked_one(sshd: Sshd, tmp_path: Path) -> None:
    line = f"[127.0.0.1]:{sshd.port} {other_key(tmp_path, 'ed25519')}"
    async with runner(sshd.settings(known(sshd, tmp_path, line), ssh_host_key=HostKeyPolicy.OFF)) as run:
        await run.read(sshd.host(), "true")
    revoked = f"@revoked * {sshd.public_key()}"
    said = await refusal(sshd, known(sshd, tmp_path, revoked) + "  HostKeyAlgorithms ssh-ed25519\n", ssh_host_key=HostKeyPolicy.OFF)
    assert "is revoked" in said


async def test_no_credential_is_sent_to_a_host_whose_key_is_refused(tmp_path: Path, sshd: Sshd) -> None:
    class Listening(paramiko.ServerInterface):
        asked: list[str]

        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            self.asked.append(username)
            return paramiko.AUTH_FAILED

        check_auth_password = check_auth_publickey

    server = Listening()
    server.asked = []
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            transport = paramiko.Transport(connection)
            transport.add_server_key(paramiko.RSAKey.generate(2048))
            transport.start_server(event=threading.Event(), server=server)
            transport.join(10)
            ended.set()

        threading.Thread(target=serve, daemon=True).start()
        async with runner(sshd.settings(ssh_password="s3cret")) as run:
            with pytest.raises(HostKeyError):
                await run(sshd.host(port=listener.getsockname()[1]), "true")
        assert ended.wait(10)
    assert server.asked == []
