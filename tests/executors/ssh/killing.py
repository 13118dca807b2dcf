"""Kills a client in the middle of a task, and has another one recover it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.executors.ssh.client import open_store, witness_in
from tests.servers.sshd import Sshd
from tests.witness import miscounts, of_task


def round_of(sshd: Sshd, folder: Path, hosts: int, chance: random.Random, *, most: int = 3) -> tuple[Counter[str], float, list[str]]:
    """A task whose first clients, `most` of them, are killed at random moments: its states, the last one's seconds, what does not hold."""
    folder.mkdir(parents=True)
    open_store(folder).close()
    for kills in range(most + 1):
        began = time.monotonic()
        if _client(sshd, folder, hosts, chance.uniform(0.0, 1.5) if kills < most else None):
            break
    took = time.monotonic() - began
    store = open_store(folder)
    try:
        known = of_task(store, 1)
        found = [*witness_in(folder).complaints(known), *miscounts(store, 1)]
        return Counter(str(account.state) for account in known[:hosts]), took, found
    finally:
        store.close()


def _client(sshd: Sshd, folder: Path, hosts: int, seconds: float | None) -> bool:
    """Whether a client came to its end; else it is killed after so many seconds of work."""
    command = [sys.executable, "-m", "tests.executors.ssh.client", str(sshd.folder), str(sshd.port), str(folder), str(hosts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], env=dict(os.environ)) as client:
        try:
            return client.communicate(timeout=(seconds + 1.0) if seconds else 120)[0] == "done\n"
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                client.send_signal(signal.SIGKILL)
            return False
