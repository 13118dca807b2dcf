"""Logging in with credentials that came with the host: with them alone, and with what they say now."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors.ssh.private_keys import UnusableKeyError, read_text
from models.credentials import Credentials
from models.errors import AuthenticationError, CredentialsError, UnreachableError
from models.values import Host
from tests.executors.ssh.running import runner
from tests.servers.passwords import Accounts, run_password_server
from tests.servers.sshd import Sshd, make_key, run_sshd
from tests.until import until

PASSPHRASE = "canary-of-the-passphrase"


@pytest.fixture
def nothing(sshd: Sshd) -> dict[str, object]:
    """Settings without any key."""
    return {"ssh_identity": None, "config": "Host *\n  IdentityFile none\n"}


def _host(sshd: Sshd, **values: str) -> Host:
    return sshd.host(credentials="fleet", login=Credentials(name="fleet", **values))


async def _refusal(sshd: Sshd, host: Host) -> str:
    async with runner(sshd.settings()) as run:
        with pytest.raises(UnreachableError) as caught:
            await run(host, "true")
    return caught.value.reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", ""),  # as a form does that has one line for it
        lambda text: text.replace("\n", " "),
        lambda text: f"\n  {text.strip()}\n\n",
    ],
)
async def test_a_key_opens_however_it_was_pasted(sshd: Sshd, nothing: dict[str, object], spoil: object) -> None:
    key = spoil(sshd.identity.read_text())  # type: ignore[operator]
    async with runner(sshd.settings(**nothing)) as run:
        assert await run.read(_host(sshd, key=key), "echo hi") == b"hi\n"


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that takes one encrypted key; the other sshd does not take it."""
    folder = tmp_path_factory.mktemp("bastion")
    with run_sshd(folder) as server:
        server.identity = make_key(folder / "id_encrypted", passphrase=PASSPHRASE)
        (folder / "authorized_keys").write_text((folder / "id_encrypted.pub").read_text())
        yield server


async def test_an_encrypted_key_opens_with_the_passphrase_beside_it(bastion: Sshd) -> None:
    host = _host(bastion, key=bastion.identity.read_text(), passphrase=PASSPHRASE)
    async with runner(bastion.settings(ssh_identity=None, ssh_passphrase="another")) as run:
        assert await run.read(host, "echo hi") == b"hi\n"


async def test_an_encrypted_key_that_does_not_open(bastion: Sshd) -> None:
    said = await _refusal(bastion, _host(bastion, key=bastion.identity.read_text(), passphrase="canary"))
    assert said.endswith("; the key of credentials 'fleet' does not open with their passphrase")


def test_a_key_that_cannot_be_used_is_one_line_without_its_text(bastion: Sshd, tmp_path: Path) -> None:
    encrypted = bastion.identity.read_text()
    plain = make_key(tmp_path / "rsa", "rsa").read_text()
    lines = plain.splitlines()
    body = "".join(lines[1:-1])
    broken = ["canary", plain[:200], plain[:-400], plain.replace("b3Blb", "AAAA"), plain.replace(lines[3], ""), bastion.public_key()]
    broken += [
        f"-----BEGIN {kind}PRIVATE KEY-----\n{text}\n-----END {kind}PRIVATE KEY-----" for kind in ("", "RSA ") for text in ("x", body)
    ]
    for key, why in [
        (encrypted, "is encrypted; they hold no passphrase for it"),
        *((key, "is no ed25519, ECDSA or RSA") for key in broken),
    ]:
        with pytest.raises(UnusableKeyError) as caught:
            read_text(Credentials(name="fleet", key=key))
        said = str(caught.value)
        assert said.startswith(f"the key of credentials 'fleet' {why}")
        assert len(said) < 90, "nothing of the key is in it"


async def test_a_password_and_no_key(sshd: Sshd, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    asked = Accounts("s3cret")
    with run_password_server(known_hosts, lambda: asked) as port:
        config = f"Host *\n  UserKnownHostsFile {known_hosts}\n"
        async with runner(sshd.settings(config, ssh_password="another")) as run:
            login = Credentials(name="fleet", user="ann", password="s3cret")
            assert await run.read(sshd.host(port=port, login=login), "echo hi") == b"hi\n"
            assert asked.asked == ["password"], "the keys of this machine are nobody's business there"
            with pytest.raises(AuthenticationError) as caught:
                await run(sshd.host(port=port, login=Credentials(name="fleet", key=sshd.identity.read_text())), "true")
    assert "credentials 'fleet' hold none" in caught.value.reason
    assert "FLEETFLOW" not in caught.value.reason


async def test_nothing_but_the_credentials_is_offered(sshd: Sshd, home: Path, tmp_path: Path) -> None:
    (home / ".ssh" / "id_ed25519").write_bytes(sshd.identity.read_bytes())
    said = await _refusal(sshd, _host(sshd, key=make_key(tmp_path / "other").read_text()))
    assert "(tried publickey; keys: the key of credentials 'fleet')" in said


async def test_an_identity_that_is_named_goes_first(sshd: Sshd, tmp_path: Path) -> None:
    host = _host(sshd, key=make_key(tmp_path / "other").read_text())
    async with runner(sshd.settings()) as run:
        assert await run.read(sshd.host(login=host.login, identity=sshd.identity), "echo hi") == b"hi\n"


async def test_credentials_that_have_changed_use_no_connection_of_before(sshd: Sshd, tmp_path: Path) -> None:
    until(lambda: not sshd.sessions(), 10, "the end of what the tests before have used")
    good = sshd.identity.read_text()
    async with runner(sshd.settings()) as run:
        for _ in range(2):
            await run.read(_host(sshd, key=good), "true")
        assert len(sshd.sessions()) == 1, "equal credentials share a connection"
        with pytest.raises(AuthenticationError):
            await run(_host(sshd, key=make_key(tmp_path / "other").read_text()), "true")
        await run.read(sshd.host(), "true")
        until(lambda: len(sshd.sessions()) == 2, 10, "two connections: without credentials it is somebody else who logs in")


async def test_the_way_over_their_jump_host_is_theirs_too(sshd: Sshd, bastion: Sshd) -> None:
    keys = (bastion.folder / "authorized_keys", bastion.folder / "id_encrypted.pub")
    keys[0].write_text(keys[1].read_text() + sshd.identity.with_name("id_ed25519.pub").read_text())
    config = f"Host 127.0.0.2\n  UserKnownHostsFile {bastion.known_hosts}\n"
    login = Credentials(name="fleet", key=sshd.identity.read_text(), jump=f"127.0.0.2:{bastion.port}")
    async with runner(sshd.settings(config, ssh_identity=None)) as run:
        assert await run.read(sshd.host(login=login), "echo hi") == b"hi\n"
        assert bastion.sessions(), "it went another way"
        assert await run.read(bastion.host(address="127.0.0.2", login=login), "echo hi") == b"hi\n", (
            "the jump host is reached without a jump"
        )
        with pytest.raises(AuthenticationError, match=f"127.0.0.2:{bastion.port}"):  # named by the host: reached as ~/.ssh/config says
            await run(sshd.host(login=login, jump=f"127.0.0.2:{bastion.port}", port=sshd.port), "true")


@pytest.mark.parametrize("login", [None, CredentialsError("fleet", "there is no block of this name")])
async def test_credentials_that_nobody_could_read(sshd: Sshd, login: CredentialsError | None) -> None:
    said = await _refusal(sshd, sshd.host(credentials="fleet", login=login))
    assert said.startswith("credentials 'fleet'")


def test_no_repr_shows_them(sshd: Sshd) -> None:
    host = _host(sshd, key="canary", passphrase="canary", password="canary")
    assert "canary" not in repr(host)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_damaged_key_that_asks_for_billions_of_rounds_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    begin, *lines, end = make_key(tmp_path / "key", kind, passphrase=PASSPHRASE).read_text().splitlines()
    data = bytearray(base64.b64decode("".join(lines)))
    head = b"openssh-key-v1\0\0\0\0\x0aaes256-ctr\0\0\0\x06bcrypt\0\0\0\x18\0\0\0\x10"
    assert data.startswith(head)
    place = len(head) + 16  # behind the salt
    for rounds, reason in ((4_000_000_000, "wants 4000000000 rounds of key derivation; at most 2000"), (2, "does not open with their")):
        data[place : place + 4] = rounds.to_bytes(4, "big")
        key = "\n".join([begin, base64.b64encode(data).decode(), end])
        with pytest.raises(UnusableKeyError, match=reason):
            read_text(Credentials(name="fleet", key=key, passphrase=PASSPHRASE))
