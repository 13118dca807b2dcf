"""What `make profile NAME=ssh` profiles: three runs on 100 hosts, the first of which opens the connections."""

import asyncio
import tempfile
from pathlib import Path

from bench_ssh import Ours

from tests.servers.sshd import run_sshd

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, run_sshd(Path(name) / "sshd") as sshd:
        rates = asyncio.run(Ours(sshd, Path(name)).warm(sshd.fleet(100), 2))
        print("hosts/s on open connections:", *(f"{rate:.0f}" for rate in rates))
