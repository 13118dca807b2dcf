"""dropbear, the SSH server of small machines. Its keys must stand in the account's own folder, so it gets a mount of its own there."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.programs import need
from tests.servers.sshd import Sshd, end_tree, make_key, wait_for_banner


@contextmanager
def run_dropbear(folder: Path) -> Iterator[Sshd]:
    """Start a dropbear that takes our key for the account that runs the tests; it has to be root."""
    program = need("dropbear")
    if os.geteuid() != 0:
        pytest.skip("dropbear needs the authorized_keys of an account: only root may put others in their place")
    account = Path("~root").expanduser()
    keys = {kind: folder / f"host_{kind}" for kind in ("ed25519", "ecdsa", "rsa")}
    identity = make_key(folder / "id_ed25519")
    (folder / "home" / ".ssh").mkdir(parents=True, mode=0o700)
    authorized = folder / "home" / ".ssh" / "authorized_keys"
    authorized.write_bytes(identity.with_name("id_ed25519.pub").read_bytes())
    authorized.chmod(0o600)
    for kind, path in keys.items():
        made = subprocess.run([need("dropbearkey"), "-t", kind, "-f", str(path)], check=True, capture_output=True, text=True).stdout
        path.with_name(path.name + ".pub").write_text(next(line for line in made.splitlines() if line.startswith(("ssh-", "ecdsa-"))))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    options = " ".join(f"-r {path}" for path in keys.values())
    start = f"mount --bind {folder / 'home'} {account} && exec {program} -F -E -s -p {port} -P {folder / 'pid'} {options}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([need("unshare"), "--mount", "/bin/sh", "-c", start], stderr=log)
    server = Sshd(folder, port, process, keys, identity)
    try:
        wait_for_banner(server)
        server.known_hosts.write_text("".join(f"*,[*]:{port} {server.public_key(kind)}\n" for kind in keys))
        yield server
    finally:
        end_tree(process)
