"""Logging in by a certificate, before one real sshd that trusts an authority. The oracle is OpenSSH's client."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from executors.ssh.certificates import CertificateError
from executors.ssh.user_certificates import read_file
from models.errors import UnreachableError
from tests.executors.ssh.running import runner
from tests.programs import need
from tests.servers.authority import Authority
from tests.servers.sshd import Sshd, make_key, run_sshd
from tests.until import until

ME = pwd.getpwuid(os.getuid()).pw_name
OPTIONS = {  # what ssh-keygen is told for each certificate
    "good": ["-n", f"somebody,{ME}"],
    "expired": ["-n", ME, "-V", "20200101:20210101"],
    "early": ["-n", ME, "-V", "20900101:20910101"],
    "another's": ["-n", "joe,jane"],
    "nobody's": [],
    "mapped": ["-n", "operators"],
    "host's": ["-h", "-n", ME],
    "elsewhere": ["-n", ME, "-O", "source-address=192.0.2.1"],
}


@dataclass(frozen=True)
class Desk:
    """Keys and certificates to log in with, and the server that they are for."""

    sshd: Sshd
    folder: Path
    trusted: Authority
    foreign: Authority

    def ask_openssh(self, config: Path) -> bool:
        """Whether OpenSSH's client gets in."""
        arguments = ["-F", str(config), "-oBatchMode=yes", "-p", str(self.sshd.port), "127.0.0.1", "true"]
        ended = subprocess.run([need("ssh"), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert ended.returncode in {0, 255}, ended.stderr
        return ended.returncode == 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    trusted, foreign = Authority.make(folder, "CA"), Authority.make(folder, "OTHER_CA", "rsa")
    (folder / "principals").write_text(f"{ME}\noperators\n")
    options = [f"TrustedUserCAKeys {folder / 'CA.pub'}", f"AuthorizedPrincipalsFile {folder / 'principals'}", "MaxAuthTries 20"]
    with run_sshd(folder / "sshd", options) as server:
        yield Desk(server, folder, trusted, foreign)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key that the server does not know by itself."""
    return make_key(tmp_path / "id")


async def try_ours(desk: Desk, config: str, **settings: object) -> tuple[str, Path]:
    """Why we are not let in, and the configuration; empty when we are."""
    given = desk.sshd.settings(config, **({"ssh_identity": None} | settings))
    async with runner(given) as run:
        try:
            await run(desk.sshd.host(), "true")
        except UnreachableError as error:
            return error.reason, given.ssh_config
    return "", given.ssh_config


@pytest.mark.parametrize(("certificate", "signer"), [*((name, "trusted") for name in OPTIONS), ("good", "foreign")])
async def test_we_get_in_where_openssh_gets_in(desk: Desk, key: Path, certificate: str, signer: str) -> None:
    getattr(desk, signer).sign(key, *OPTIONS[certificate])
    said, config = await try_ours(desk, f"Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n")
    assert (said == "") is desk.ask_openssh(config), said
    assert (said == "") is (signer == "trusted" and certificate in {"good", "mapped"})


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ("expired", "it expired at 20"),
        ("early", "it is not valid before 20"),
        ("another's", f"it is for joe, jane and not for {ME}"),
        ("nobody's", "it names no user"),
        ("host's", "it is one for hosts"),
    ],
)
async def test_the_error_names_the_certificate_and_says_why(desk: Desk, key: Path, certificate: str, why: str) -> None:
    path = desk.trusted.sign(key, *OPTIONS[certificate])
    said, _ = await try_ours(desk, f"Host *\n  IdentityFile {key}\n")
    assert f"certificate {path}" in said
    assert why in said
    assert f"{key}" in said.partition("keys: ")[2].split(")")[0].split(", ")  # it was tried as well


@pytest.mark.parametrize("certificate", ["expired", "another's", "host's"])
async def test_the_plain_key_gets_in_when_the_certificate_does_not(desk: Desk, tmp_path: Path, certificate: str) -> None:
    known = tmp_path / "id"
    for suffix in ("", ".pub"):
        known.with_name(f"id{suffix}").write_bytes(desk.sshd.identity.with_name(f"id_ed25519{suffix}").read_bytes())
    known.chmod(0o600)
    desk.trusted.sign(known, *OPTIONS[certificate])
    assert (await try_ours(desk, "", ssh_identity=known))[0] == ""


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("name", ["elsewhere-cert.pub", "elsewhere-cert"])
async def test_certificate_file_names_one_for_a_key_of_any_kind(desk: Desk, tmp_path: Path, kind: str, name: str) -> None:
    key = make_key(tmp_path / "id", kind)
    desk.trusted.sign(key, *OPTIONS["good"], to=tmp_path / "elsewhere-cert.pub")
    said, config = await try_ours(desk, f"Host *\n  IdentityFile {key}\n  CertificateFile {tmp_path / name}\n")
    assert said == ""
    assert desk.ask_openssh(config)


async def test_a_certificate_file_puts_aside_the_one_beside_the_key(desk: Desk, key: Path, tmp_path: Path) -> None:
    desk.trusted.sign(key, *OPTIONS["expired"], to=tmp_path / "old-cert.pub")
    desk.trusted.sign(key, *OPTIONS["good"])
    said, config = await try_ours(desk, f"Host *\n  IdentityFile {key}\n  CertificateFile {tmp_path}/old-cert.pub\n")
    assert "old-cert.pub: it expired" in said
    assert not desk.ask_openssh(config)


async def test_the_identity_that_was_asked_for_has_its_certificate_too(desk: Desk, key: Path) -> None:
    desk.trusted.sign(key, *OPTIONS["good"])
    assert (await try_ours(desk, "", ssh_identity=key))[0] == ""


async def test_a_certificate_without_its_key_is_named(desk: Desk, key: Path, tmp_path: Path) -> None:
    path = desk.trusted.sign(make_key(tmp_path / "gone"), *OPTIONS["good"])
    said, _ = await try_ours(desk, f"Host *\n  IdentityFile {key}\n  CertificateFile {path}\n  CertificateFile {tmp_path}/none\n")
    assert f"certificate {path} cannot be used: none of the keys that we may use fits it" in said
    assert f"certificate {tmp_path}/none does not exist" in said


async def test_a_damaged_certificate_does_not_keep_its_key_from_being_tried(desk: Desk, key: Path) -> None:
    path = desk.trusted.sign(key, *OPTIONS["good"])
    path.write_text(path.read_text()[:200])
    said, _ = await try_ours(desk, "", ssh_identity=key)
    assert f"keys: {key})" in said
    assert f"certificate {path} cannot be used" in said


@contextmanager
def run_agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """An ssh-agent that holds keys, and the certificates beside them."""
    path = folder / "agent"
    with subprocess.Popen([need("ssh-agent"), "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        try:
            until(path.exists, 5, "the socket of ssh-agent")
            for key in keys:
                environ = os.environ | {"SSH_AUTH_SOCK": str(path)}
                subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            yield path
        finally:
            process.terminate()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_a_certificate_in_the_agent_is_offered_before_its_plain_key(desk: Desk, tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "id", kind)
    desk.trusted.sign(key, *OPTIONS["good"])
    with run_agent(tmp_path, key) as agent:
        key.rename(tmp_path / "away")
        key.with_name("id-cert.pub").rename(tmp_path / "away-cert.pub")
        said, config = await try_ours(desk, f"Host *\n  IdentityAgent {agent}\n")
        assert said == ""
        assert desk.ask_openssh(config)
        only = f"Host *\n  IdentityAgent {agent}\n  IdentitiesOnly yes\n  IdentityFile {key}\n  CertificateFile {tmp_path}/away-cert.pub\n"
        said, config = await try_ours(desk, only)
        assert said == ""
        assert desk.ask_openssh(config)
        said, config = await try_ours(desk, f"Host *\n  IdentityAgent {agent}\n  IdentitiesOnly yes\n")
        assert "certificate" not in said
        assert not desk.ask_openssh(config)


async def test_a_certificate_of_another_user_in_the_agent_is_named(desk: Desk, key: Path, tmp_path: Path) -> None:
    desk.trusted.sign(key, *OPTIONS["another's"])
    with run_agent(tmp_path, key) as agent:
        said, _ = await try_ours(desk, f"Host *\n  IdentityAgent {agent}\n")
    assert "keys: agent certificate id, agent key id" in said
    assert f"certificate agent certificate id: it is for joe, jane and not for {ME}" not in said
    assert f"agent certificate id: it is for joe, jane and not for {ME}" in said


def test_what_is_no_certificate_is_said_to_be_none(tmp_path: Path) -> None:
    key = make_key(tmp_path / "id")
    (tmp_path / "empty").write_text("")
    with pytest.raises(CertificateError, match="'ssh-ed25519' is no type of certificate"):
        read_file(key.with_name("id.pub"))
    with pytest.raises(CertificateError, match="it is no certificate"):
        read_file(tmp_path / "empty")
