"""Hosts a second over SSH, with everything recorded, beside bare paramiko and bare asyncssh on the same sshd.

sshd shares the machine's processors with its clients: what it costs is in every figure alike.
"""

import argparse
import asyncio
import ctypes
import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
from side_by_side import Row, compare, in_turn, show

from executors.attempt import carry_out
from executors.ssh.executor import Ssh
from models import database
from models.recorder import Recorder
from models.records import Claim, TaskSpec
from models.states import ExecutionState
from models.store import Store
from models.values import Command, Host, OnDisconnect
from tests.servers.sshd import Sshd, at_home, run_sshd
from tests.until import until

THREADS = 20  # of bare paramiko: more buy nothing
FORKS = 100
ON_HOST = 25  # milliseconds of a durable run, so that it may be the default
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def _on_host(ours: float, _ratio: float) -> bool:
    return ours < ON_HOST


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class HostTime:
    """Processor time of the hosts (seconds): of sshd, and of all that its sessions have started.

    What a session leaves behind, as the supervisors of durable runs, becomes our child: it is ours to bury, and its time is known.
    """

    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd
        self._tick = os.sysconf("SC_CLK_TCK")
        if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")

    def since(self, before: float, runs: int) -> float:
        """Milliseconds a run. The kernel tells what a session has used in hundredths of a second: only many runs are told apart."""
        return max(self.used() - before, 1 / self._tick) / runs * 1000

    def used(self) -> float:
        """So far, once nothing is left that nobody waits for."""
        server = self._sshd.process.pid
        until(lambda: self._bury() == [server], 30, "the supervisors to end", every=0.05)
        orphans = resource.getrusage(resource.RUSAGE_CHILDREN)
        return orphans.ru_utime + orphans.ru_stime + sum(self._of(pid) for pid in [server, *self._sshd.sessions()])

    def _bury(self) -> list[int]:
        """Our children that live."""
        children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        for pid in children:
            if pid != self._sshd.process.pid:
                os.waitpid(pid, os.WNOHANG)
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]

    def _of(self, pid: int) -> float:
        """Of a process and the children it has waited for."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, fields[11:15])) / self._tick


class Ours:
    """The executor, the store and the recorder, as a flow uses them."""

    def __init__(self, sshd: Sshd, folder: Path, host_time: HostTime, on_disconnect: OnDisconnect = OnDisconnect.END) -> None:
        self._host_time = host_time
        self._command = Command(script="echo hi", on_disconnect=on_disconnect)
        url = f"sqlite:///{folder / 'bench.db'}"
        database.upgrade(url)
        self._settings = sshd.settings()
        self._store = Store.open(url)
        self._loop = asyncio.Runner()
        self.cpu: list[float] = []  # milliseconds a host, cold
        self.there: list[float] = []  # milliseconds on the host a run, warm

    def cold(self, hosts: Sequence[Host]) -> float:
        parts = self._loop.run(self._open())
        used = _cpu()
        rate = self._loop.run(self._run(*parts, hosts))
        self._loop.run(self._close(*parts))
        self.cpu.append((_cpu() - used) / len(hosts) * 1000)
        return rate

    def warm(self, hosts: Sequence[Host]) -> float:
        """The second of two runs: the first opens the connections."""
        parts = self._loop.run(self._open())
        self._loop.run(self._run(*parts, hosts))
        used = self._host_time.used()
        rate = self._loop.run(self._run(*parts, hosts))
        self.there.append(self._host_time.since(used, len(hosts)))
        self._loop.run(self._close(*parts))
        return rate

    def close(self) -> None:
        self._loop.close()

    async def _open(self) -> tuple[Ssh, Recorder]:
        return Ssh(self._settings), Recorder(self._store, output_limit=1 << 20)

    async def _close(self, ssh: Ssh, recorder: Recorder) -> None:
        await ssh.aclose()
        await recorder.aclose()

    async def _run(self, ssh: Ssh, recorder: Recorder, hosts: Sequence[Host]) -> float:
        began = time.perf_counter()
        spec = TaskSpec(name="bench", command=self._command, target="bench", hosts=tuple(host.name for host in hosts))
        task = self._store.open_task(spec, "bench")
        slots = asyncio.Semaphore(FORKS)

        async def one(host: Host, claim: Claim) -> None:
            recording = recorder.record(claim)
            async with slots:
                outcome = await carry_out(ssh, claim.attempt, host, self._command, recording, connect_timeout=60)
            assert await recording.finish(outcome)
            if self._command.on_disconnect is not OnDisconnect.END:
                await ssh.ack(claim.attempt, host)

        await asyncio.gather(*(one(host, claim) for host, claim in zip(hosts, self._store.claim(task.id, "bench"), strict=True)))
        ended = self._store.close_task(task.id)
        took = time.perf_counter() - began
        assert ended.counts[ExecutionState.SUCCEEDED] == len(hosts), ended.counts
        return len(hosts) / took


class BareParamiko:
    """SSHClient in threads: no wrapper, nothing recorded."""

    def __init__(self, sshd: Sshd, host_time: HostTime) -> None:
        self._host_time = host_time
        self._key = paramiko.Ed25519Key.from_private_key_file(str(sshd.identity))
        self._sshd = sshd
        self.cpu: list[float] = []
        self.there: list[float] = []

    def _connect(self, host: Host) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507 - a benchmark's own sshd
        client.connect(
            host.address or host.name, self._sshd.port, "root", pkey=self._key, look_for_keys=False, allow_agent=False,
            banner_timeout=60, auth_timeout=60,
        )  # fmt: skip
        return client

    @staticmethod
    def _execute(client: paramiko.SSHClient) -> None:
        _, out, _ = client.exec_command("echo hi")
        assert out.read() == b"hi\n"
        assert out.channel.recv_exit_status() == 0

    def cold(self, hosts: Sequence[Host]) -> float:
        def one(host: Host) -> None:
            with self._connect(host) as client:
                self._execute(client)

        with ThreadPoolExecutor(THREADS) as pool:
            began, used = time.perf_counter(), _cpu()
            list(pool.map(one, hosts))
            took = time.perf_counter() - began
        self.cpu.append((_cpu() - used) / len(hosts) * 1000)
        return len(hosts) / took

    def warm(self, hosts: Sequence[Host]) -> float:
        """The second of two runs. None of its connections is kept: paramiko wakes the thread of each ten times a second."""
        with ThreadPoolExecutor(THREADS) as pool:
            clients = list(pool.map(self._connect, hosts))
            list(pool.map(self._execute, clients))
            used, began = self._host_time.used(), time.perf_counter()
            list(pool.map(self._execute, clients))
            took = time.perf_counter() - began
            self.there.append(self._host_time.since(used, len(hosts)))
        for client in clients:
            client.close()
        return len(hosts) / took


def _bare_asyncssh(sshd: Sshd, hosts: Sequence[Host]) -> float:
    import asyncssh  # a peer, and installed for benchmarks alone

    async def one(slots: asyncio.Semaphore, host: Host) -> None:
        async with slots, asyncssh.connect(
            host.address or host.name, sshd.port, username="root", client_keys=[str(sshd.identity)], known_hosts=None,
            config=None, agent_path=None, login_timeout=60,
        ) as connection:  # fmt: skip
            done = await connection.run("echo hi", check=True)
            assert done.stdout == "hi\n"

    async def run() -> float:
        slots = asyncio.Semaphore(FORKS)
        began = time.perf_counter()
        await asyncio.gather(*(one(slots, host) for host in hosts))
        return len(hosts) / (time.perf_counter() - began)

    return asyncio.run(run())


def measure(sizes: Sequence[int] = (100, 500), rounds: int = 3) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, run_sshd(Path(name) / "sshd", at_home(Path(name) / "user")) as sshd:
        return [row for size in sizes for row in _one_size(sshd, Path(name), size, rounds)]


def _one_size(sshd: Sshd, folder: Path, size: int, rounds: int) -> list[Row]:
    hosts = sshd.fleet(size)
    spent = HostTime(sshd)
    ours, lingering, bare = Ours(sshd, folder, spent), Ours(sshd, folder, spent, OnDisconnect.LINGER), BareParamiko(sshd, spent)
    gc.freeze()  # as the worker does at its start; all sides gain

    def rested(run: Callable[[], float]) -> Callable[[], float]:
        """What the run before left to sshd is not charged to this one."""

        def after_rest() -> float:
            until(lambda: not sshd.sessions(), 60)
            return run()

        return after_rest

    cold, theirs, asyncssh, warm, theirs_warm, durable = in_turn(
        rounds,
        rested(lambda: ours.cold(hosts)),
        rested(lambda: bare.cold(hosts)),
        rested(lambda: _bare_asyncssh(sshd, hosts)),
        rested(lambda: ours.warm(hosts)),
        rested(lambda: bare.warm(hosts)),
        rested(lambda: lingering.warm(hosts)),
    )
    lingering.close()
    ours.close()
    better, peer = max((theirs, "bare paramiko"), (asyncssh, "bare asyncssh"), key=lambda figures: sum(figures[0]))
    return [
        compare(f"{size} hosts, cold", "hosts/s", cold, peer, better, "0.8 of the better one", lambda _, quotient: quotient >= 0.8),
        compare(
            "  processor time of the client", "ms/host", ours.cpu[1:], "bare paramiko", bare.cpu[1:], "said, not judged", lambda *_: True
        ),
        compare(
            f"{size} hosts, open connections",
            "hosts/s",
            warm,
            "bare paramiko, warm",
            theirs_warm,
            "0.4 of it",
            lambda _, quotient: quotient >= 0.4,
        ),
        compare("  the same", "hosts/s", warm, f"{peer}, cold", better, "3 times it", lambda _, quotient: quotient >= 3),
        compare("  durable runs", "hosts/s", durable, "the lifeline", warm, "said, not judged", lambda *_: True),
        compare("  durable runs", "hosts/s", durable, "bare paramiko, warm", theirs_warm, "said, not judged", lambda *_: True),
        compare("  the lifeline, on the host", "ms", ours.there[1:], "bare exec", bare.there[1:], "said, not judged", lambda *_: True),
        compare("  durable runs, on the host", "ms", lingering.there[1:], "bare exec", bare.there[1:], f"under {ON_HOST} ms", _on_host),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    show(measure(options.sizes, options.rounds))
