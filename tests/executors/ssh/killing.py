"""Kills a client in the middle of a task, and has another one recover it."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.executors.ssh.client import open_store, witness_in
from tests.servers.sshd import Sshd
from tests.witness import miscounts, of_task

_PATIENCE = 120.0  # seconds for a client that nobody kills


class Clients:
    """Makes clients that run at once, since all they need has been imported."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def work(self, folder: Path, hosts: int, seconds: float) -> bool:
        """Whether a client came to its end; else it is killed after so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(hosts, folder, file=self._process.stdin, flush=True)
        client = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.kill(client, signal.SIGKILL)
        return self._process.stdout.readline() == "0\n"


@contextmanager
def run_clients(sshd: Sshd) -> Iterator[Clients]:
    command = [sys.executable, "-m", "tests.executors.ssh.client", str(sshd.folder), str(sshd.port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], env=dict(os.environ)
    ) as process:
        yield Clients(process)


def round_of(clients: Clients, folder: Path, hosts: int, chance: random.Random, *, most: int = 3) -> tuple[Counter[str], float, list[str]]:
    """A task whose first clients, `most` of them, are killed at random moments: its states, the last one's seconds, what does not hold."""
    folder.mkdir(parents=True)
    open_store(folder).close()
    for kills in range(most + 1):
        began = time.monotonic()
        if clients.work(folder, hosts, chance.uniform(0.0, 1.5) if kills < most else _PATIENCE):
            break
    took = time.monotonic() - began
    store = open_store(folder)
    try:
        known = of_task(store, 1)
        found = [*witness_in(folder).complaints(known), *miscounts(store, 1)]
        return Counter(str(account.state) for account in known[:hosts]), took, found
    finally:
        store.close()
