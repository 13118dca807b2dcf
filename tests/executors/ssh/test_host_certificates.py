"""Hosts that prove themselves by a certificate. The oracle is OpenSSH's client in front of an sshd that shows the same one."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from executors.ssh.certificates import SUFFIX, CertificateError, read_certificate, type_of
from executors.ssh.host_keys import HostKeys
from executors.ssh.plan import Planner
from executors.ssh.route import Route
from executors.ssh.threads import Threads
from models.errors import HostKeyError
from models.settings import Settings
from models.values import Host, HostKeyPolicy
from tests.executors.ssh.running import runner
from tests.programs import need
from tests.servers.authority import Authority, blob, public
from tests.servers.sshd import Sshd, make_key, run_sshd

PAST, FUTURE = "20200101:20210101", "20900101:20910101"
CERTIFICATES: dict[str, tuple[str, list[str]]] = {  # a kind of host key, and what ssh-keygen is told
    "good": ("ed25519", ["-h", "-n", "web1,web2,127.0.0.1"]),
    "ecdsa": ("ecdsa", ["-h", "-n", "web1,127.0.0.1"]),
    "rsa": ("rsa", ["-h", "-n", "web1,127.0.0.1"]),
    "for everybody": ("ed25519", ["-h"]),
    "expired": ("ed25519", ["-h", "-n", "web1", "-V", PAST]),
    "not yet valid": ("ed25519", ["-h", "-n", "web1", "-V", FUTURE]),
    "of another host": ("ed25519", ["-h", "-n", "db1,db2"]),
    "of a pattern": ("ed25519", ["-h", "-n", "web*"]),
    "with a port": ("ed25519", ["-h", "-n", "[web1]:2222"]),
    "of a user": ("ed25519", ["-n", "web1"]),
    "with an option": ("ed25519", ["-h", "-n", "web1", "-O", "critical:made-up@example.com=x"]),
    "by an RSA authority": ("ed25519", ["-h", "-n", "web1"]),
    "by an RSA authority with SHA-1": ("ed25519", ["-h", "-n", "web1", "-t", "ssh-rsa"]),
    "by an ECDSA authority": ("ed25519", ["-h", "-n", "web1"]),
}


@dataclass(frozen=True)
class Hosts:
    """The certificates of all cases, with an sshd for each that shows it to one client without a port."""

    folder: Path
    authorities: dict[str, Authority]

    def key(self, certificate: str) -> Path:
        return self.folder / f"host_{CERTIFICATES[certificate][0]}"

    def file(self, certificate: str) -> Path:
        return self.folder / certificate.replace(" ", "_")

    def shown(self, certificate: str) -> paramiko.PKey:
        """The key as it comes out of a handshake."""
        found = blob(self.file(certificate))
        return paramiko.Transport._key_info[type_of(found).replace("ssh-rsa", "rsa-sha2-512")](data=found)

    def write(self, path: Path, text: str) -> Path:
        """A known_hosts in which words stand for keys."""
        words = {name: authority.public for name, authority in self.authorities.items()}
        words |= {"HOST": public(self.folder / "host_ed25519"), "ECDSA_HOST": public(self.folder / "host_ecdsa")}
        path.write_text("".join(" ".join(words.get(word, word) for word in line.split(" ")) + "\n" for line in text.splitlines()))
        return path

    def ask_openssh(self, certificate: str, known_hosts: Path, options: list[str]) -> bool:
        """Whether OpenSSH's client comes as far as to log in."""
        server = f"{need('sshd')} -i -f '{self.file(certificate)}.conf'"
        fixed = {
            "BatchMode": "yes",
            "PreferredAuthentications": "none",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "none",
            "UpdateHostKeys": "no",
            "ProxyCommand": server,
        }
        arguments = [f"-o{key}={value}" for key, value in fixed.items()] + [f"-o{option}" for option in options]
        ended = subprocess.run(
            [need("ssh"), "-F", "none", *arguments, "web1", "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        refused = "Host key verification failed" in ended.stderr or "no matching host key" in ended.stderr
        assert refused is not ("Permission denied (" in ended.stderr), ended.stderr
        return not refused


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    folder = tmp_path_factory.mktemp("authorities")
    kinds = {"CA": "ed25519", "OTHER_CA": "ed25519", "RSA_CA": "rsa", "ECDSA_CA": "ecdsa"}
    made = Hosts(folder, {name: Authority.make(folder, name, kind) for name, kind in kinds.items()})
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name, (kind, options) in CERTIFICATES.items():
        signer = next((word for word in ("RSA_CA", "ECDSA_CA") if word.partition("_")[0] in name), "CA")
        key, file = make_key(made.key(name), kind), made.file(name)
        made.authorities[signer].sign(key, *options, to=file)
        Path(f"{file}.conf").write_text(f"HostKey {key}\nHostCertificate {file}\nUsePAM no\n")
    return made


CASES: list[tuple[str, str, str]] = [  # a certificate, known_hosts, options of the client
    ("good", "@cert-authority * CA", ""),
    ("good", "@cert-authority web1 CA", ""),
    ("good", "@cert-authority WEB1,db1 CA", ""),
    ("good", "@cert-authority web* CA", ""),
    ("good", "@cert-authority *,!web1 CA", ""),
    ("good", "@cert-authority db1 CA", ""),
    ("good", "@cert-authority * OTHER_CA", ""),
    ("good", "@cert-authority * OTHER_CA\n@cert-authority * CA", ""),
    ("good", "@cert-authority * HOST", ""),
    ("good", "* CA", ""),
    ("good", "", ""),
    ("good", "web1 HOST", ""),
    ("good", "web1 ECDSA_HOST", ""),
    ("good", "web1 ECDSA_HOST\n@cert-authority web1 CA", ""),
    ("good", "@revoked * CA\n@cert-authority * CA", ""),
    ("good", "@cert-authority * CA\n@revoked web1 CA", ""),
    ("good", "@cert-authority * CA\n@revoked db1 CA", ""),
    ("good", "@cert-authority * CA\n@revoked * HOST", ""),
    ("good", "@revoked * CA\nweb1 HOST", ""),
    ("good", "@cert-authority [web1]:2222 CA", "Port=2222"),
    ("good", "@cert-authority [web*]:2222 CA", "Port=2222"),
    ("good", "@cert-authority [web1]:2223 CA", "Port=2222"),
    ("good", "@cert-authority web1 CA", "Port=2222"),
    ("good", "@cert-authority [web1]:2222 CA", ""),
    ("good", "@cert-authority web2 CA", "HostKeyAlias=web2"),
    ("good", "@cert-authority * CA", "HostKeyAlias=db1"),
    ("good", "@cert-authority * CA", "HostName=WEB2"),
    ("good", "@cert-authority * CA", "HostKeyAlgorithms=ssh-ed25519"),
    ("good", "@cert-authority * CA", f"HostKeyAlgorithms=ssh-ed25519{SUFFIX}"),
    ("good", "web1 HOST", f"HostKeyAlgorithms=ssh-ed25519{SUFFIX}"),
    ("good", "@cert-authority * CA", "HostKeyAlgorithms=-*-cert-*"),
    ("ecdsa", "@cert-authority * CA", ""),
    ("rsa", "@cert-authority * CA", ""),
    ("for everybody", "@cert-authority * CA", ""),
    *(
        (name, f"@cert-authority * CA{plain}", "")
        for plain in ("", "\nweb1 HOST")
        for name in ("expired", "not yet valid", "of another host", "of a pattern", "of a user", "with an option")
    ),
    ("with a port", "@cert-authority * CA", "Port=2222"),
    ("by an RSA authority", "@cert-authority * RSA_CA", ""),
    ("by an RSA authority", "@cert-authority * CA", ""),
    ("by an RSA authority with SHA-1", "@cert-authority * RSA_CA", ""),
    ("by an ECDSA authority", "@cert-authority * ECDSA_CA", ""),
    *(
        (name, known, f"StrictHostKeyChecking={policy}")
        for policy in ("accept-new", "no")
        for name, known in (
            ("good", "@cert-authority * CA"),
            ("good", ""),
            ("good", "@cert-authority * OTHER_CA"),
            ("expired", "@cert-authority * CA"),
            ("expired", "@cert-authority * CA\nweb1 ECDSA_HOST"),
        )
    ),
    ("good", "@cert-authority * CA\n@revoked * CA", "StrictHostKeyChecking=accept-new"),
]


async def find_route(folder: Path, known_hosts: Path, options: list[str]) -> Route:
    config = folder / "config"
    lines = "\n".join([*options, f"UserKnownHostsFile {known_hosts}", "GlobalKnownHostsFile none"])
    config.write_text(f"{lines}\n")
    threads = Threads("test")
    try:
        return await Planner(Settings(ssh_config=config), threads).route(Host(name="web1"))
    finally:
        threads.close()


def meet(keys: HostKeys, route: Route, shown: paramiko.PKey) -> str:
    """Why the host is refused; empty when it is not. The server has this key alone, with and without its certificate."""
    kinds = {
        f"{shown.get_name()}{SUFFIX}",
        shown.get_name(),
        *(("rsa-sha2-512", f"rsa-sha2-512{SUFFIX}") if "rsa" in shown.get_name() else ()),
    }
    agreed = next((name for name in keys.algorithms(route) if name in kinds), None)
    if agreed is None:
        return "no algorithm in common"
    plain = type(shown)(data=shown.asbytes())
    try:
        keys.check("web1", route, shown if agreed.endswith(SUFFIX) else plain)
    except HostKeyError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(("certificate", "known", "option"), CASES)
async def test_a_host_is_accepted_where_openssh_accepts_it(hosts: Hosts, tmp_path: Path, certificate: str, known: str, option: str) -> None:
    options = ["StrictHostKeyChecking=yes", *filter(None, [option])]
    if option.startswith("Strict"):
        options = [option]
    theirs = hosts.write(tmp_path / "theirs", known)
    ours = hosts.write(tmp_path / "ours", known)
    accepted = hosts.ask_openssh(certificate, theirs, options)
    route = await find_route(tmp_path, ours, [line.replace("=", " ", 1) for line in options])
    said = meet(HostKeys(), route, hosts.shown(certificate))
    assert (said == "") is accepted, said
    if route.policy is not HostKeyPolicy.OFF:  # there OpenSSH records new keys, and we do not
        assert ours.read_text() == theirs.read_text()


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ("expired", "it expired at 20"),
        ("not yet valid", "it is not valid before 20"),
        ("of another host", "it is for db1, db2 and not for web1"),
        ("of a user", "it is no host certificate"),
        ("with an option", "fleetflow does not know its critical option made-up@example.com"),
        ("good", "no @cert-authority line for web1 has its authority SHA256:"),
    ],
)
async def test_the_error_says_why_a_certificate_does_not_count(hosts: Hosts, tmp_path: Path, certificate: str, why: str) -> None:
    known = hosts.write(tmp_path / "known", f"@cert-authority * {'OTHER_CA' if certificate == 'good' else 'CA'}")
    said = meet(HostKeys(), await find_route(tmp_path, known, []), hosts.shown(certificate))
    assert "host key of web1 is not known (ED25519 SHA256:" in said
    assert f"; its certificate does not count: {why}" in said


@pytest.mark.parametrize("certificate", ["good", "ecdsa", "rsa", "by an RSA authority", "by an ECDSA authority"])
def test_a_certificate_is_refused_when_one_bit_of_it_is_changed(hosts: Hosts, certificate: str) -> None:
    whole = blob(hosts.file(certificate))
    assert read_certificate(whole).principals[0] == "web1"
    for place in range(0, len(whole), 7):
        try:
            changed = read_certificate(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        except CertificateError:
            continue
        assert "cannot check the signature" in changed.why_not_host("web1")  # its authority has become a key of no known type
    for size in range(0, len(whole), 7):
        with pytest.raises(CertificateError):
            read_certificate(whole[:size])


@pytest.fixture(scope="module")
def certified(hosts: Hosts) -> Iterator[Sshd]:
    """An sshd with a certificate for each of its keys."""
    lines = [f"HostCertificate {hosts.file(name)}" for name in ("good", "ecdsa", "rsa")]
    with run_sshd(hosts.folder, lines) as server:
        yield server


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"])
async def test_a_real_server_is_known_by_its_certificate_alone(certified: Sshd, hosts: Hosts, tmp_path: Path, kind: str) -> None:
    known = hosts.write(tmp_path / "known", f"@cert-authority [127.0.0.*]:{certified.port} CA")
    config = f"Host *\n  UserKnownHostsFile {known}\n  HostKeyAlgorithms {kind}{SUFFIX}\n"
    async with runner(certified.settings(config)) as run:
        assert await run.read(certified.host(), "echo hi") == b"hi\n"
        with pytest.raises(HostKeyError, match=r"it is for web1, (web2, )?127\.0\.0\.1 and not for 127\.0\.0\.2"):
            await run(certified.host(address="127.0.0.2"), "true")
