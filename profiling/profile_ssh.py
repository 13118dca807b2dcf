"""What `make profile NAME=ssh` profiles: three runs on 100 hosts, the first of which opens the connections."""

import tempfile
from pathlib import Path

from bench_ssh import Ours

from tests.servers.sshd import run_sshd

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, run_sshd(Path(name) / "sshd") as sshd:
        ours, hosts = Ours(sshd, Path(name)), sshd.fleet(100)
        rates = [ours.warm(hosts) for _ in range(3)]
        ours.close()
        print("hosts/s, the first time with its connections:", *(f"{rate:.0f}" for rate in rates))
