"""A real OpenSSH server for tests. One listens on all of 127.0.0.0/8, so each loopback address is a host of a fleet."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from models.settings import Settings
from models.values import Host
from tests.programs import need

_KINDS = ("ed25519", "ecdsa", "rsa")


@dataclass
class Sshd:
    """A running sshd, and the files with which it is reached."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"
    keys: dict[str, Path]  # of the host, by kind
    identity: Path
    made: list[Path] = field(default_factory=list)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def settings(self, config: str = "", **changes: object) -> Settings:
        """Settings with a client configuration of their own: this server's key is known for every address."""
        path = self.folder / f"config{len(self.made)}"
        self.made.append(path)
        path.write_text(f"{config}\nHost *\n  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n  IdentityAgent none\n")
        given: dict[str, object] = {"ssh_config": path, "ssh_identity": self.identity, "connect_timeout": 10, "grace": 1}
        return Settings(**(given | changes))

    def host(self, name: str = "web1", address: str = "127.0.0.1", **changes: object) -> Host:
        return Host(name=name, address=address, **({"port": self.port} | changes))

    def fleet(self, count: int) -> list[Host]:
        return [self.host(f"web{number:03}", f"127.1.{number // 250}.{number % 250 + 1}") for number in range(count)]

    def public_key(self, kind: str = "ed25519") -> str:
        return " ".join(self.keys[kind].with_name(self.keys[kind].name + ".pub").read_text().split()[:2])

    def sessions(self) -> list[int]:
        """The process ids of the servers of single connections."""
        return _children(self.process.pid)


@contextmanager
def run_sshd(folder: Path, options: Sequence[str] = (), environ: dict[str, str] | None = None) -> Iterator[Sshd]:
    """Start an sshd with `options` as lines of its configuration, and end it with all that it started."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {kind: make_key(folder / f"host_{kind}", kind) for kind in _KINDS}
    identity = make_key(folder / "id_ed25519", "ed25519")
    (folder / "authorized_keys").write_text(identity.with_name(identity.name + ".pub").read_text())
    port = free_port()
    given = {option.split()[0] for option in options}  # of some keywords sshd takes the first line, of others the last
    usual = [line for line in _configuration(folder, port, keys) if line.split()[0] not in given]
    (folder / "sshd_config").write_text("\n".join([*options, *usual]) + "\n")
    _make_privilege_folder()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [need("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, env=os.environ | (environ or {})
        )
    server = Sshd(folder, port, process, keys, identity)
    try:
        wait_for_banner(server)
        lines = [f"*,[*]:{port} {server.public_key(kind)}" for kind in _KINDS]
        server.known_hosts.write_text("\n".join(lines) + "\n")
        yield server
    finally:
        end_tree(process)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def at_home(home: Path) -> list[str]:
    """Options for a server whose sessions have a home of their own, not the account's, in which others may have kept much."""
    home.mkdir(parents=True, exist_ok=True)
    return [f"SetEnv SHLVL=1 HOME={home}"]


def _configuration(folder: Path, port: int, keys: dict[str, Path]) -> list[str]:
    return [
        f"Port {port}",
        "ListenAddress 0.0.0.0",
        *(f"HostKey {key}" for key in keys.values()),
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        "SetEnv SHLVL=1",  # else bash reads ~/.bashrc: the one of the person at the desk may take its time
        f"PidFile {folder / 'pid'}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",
        "MaxStartups 1000",
        "MaxSessions 100",
        "UseDNS no",
        "PrintMotd no",
        "LogLevel VERBOSE",
    ]


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)], check=True)
    return path


def _make_privilege_folder() -> None:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


def wait_for_banner(server: Sshd) -> None:
    """Return once the server greets; raises with its log when it does not within 10 s."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.process.poll() is None:
        if greets(server.port):
            return
        time.sleep(0.01)
    raise RuntimeError(f"the SSH server did not start:\n{server.log}")


def greets(port: int) -> bool:
    """Whether an SSH server says at this port that it is one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _tree(pid: int) -> list[int]:
    return [pid, *(below for child in _children(pid) for below in _tree(child))]


def end_tree(process: "subprocess.Popen[bytes]") -> None:
    """End a process that we started and all below it."""
    for pid in reversed(_tree(process.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=10)
