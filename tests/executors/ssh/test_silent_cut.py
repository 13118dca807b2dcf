"""A network that is cut without a word: the host ends the command by itself, since no beat comes any more."""

import asyncio
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from executors.ssh.executor import Ssh
from models.errors import UnreachableError
from models.values import Attempt, Command, OnDisconnect, Stream
from tests.executors.ssh.running import Recorded, runner
from tests.programs import need, need_root
from tests.servers.sshd import Sshd, end_tree
from tests.stacks import marked, new_word
from tests.until import until

HERE, THERE = "192.0.2.1", "192.0.2.2"  # for documentation (RFC 5737): routed nowhere, and here in namespaces of our own alone
BEAT_TIMEOUT, GRACE = 3.0, 1.0
TREE = "trap '' TERM; setsid sleep 300 & nohup sleep 300 >/dev/null 2>&1 & (sleep 300 & sleep 300) & sleep 300"


def _ip(*arguments: str) -> None:
    subprocess.run([need("ip"), *arguments], check=True, capture_output=True)


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Two machines, as far as the network goes, with a cable between them."""
    name = secrets.token_hex(4)
    here, there = f"ff-here-{name}", f"ff-there-{name}"
    try:
        _ip("netns", "add", here)
        _ip("netns", "add", there)
        _ip("link", "add", "cable0", "netns", here, "type", "veth", "peer", "name", "cable1", "netns", there)
        for space, device, address in ((here, "cable0", HERE), (there, "cable1", THERE)):
            _ip("-n", space, "address", "add", f"{address}/24", "dev", device)
            _ip("-n", space, "link", "set", device, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield here, there
    finally:
        for space in (here, there):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", space)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    need_root("network namespaces need root")
    with two_namespaces() as spaces:
        yield spaces


@pytest.mark.parametrize("before", ["", "before"], ids=["the first run", "a later run"])
def test_a_silent_cut_ends_the_command_within_beat_timeout_and_grace(sshd: Sshd, namespaces: tuple[str, str], before: str) -> None:
    here, there = namespaces
    word = new_word()
    server = subprocess.Popen(
        [need("ip"), "netns", "exec", there, need("sshd"), "-D", "-f", str(sshd.folder / "sshd_config"), "-o", "PidFile=none"]
    )
    client = subprocess.Popen(
        [
            need("ip"),
            "netns",
            "exec",
            here,
            sys.executable,
            "-m",
            "tests.executors.ssh.test_silent_cut",
            word,
            str(sshd.port),
            str(sshd.folder),
            before,
        ],
        cwd=Path(__file__).parents[3],
    )
    try:
        until(lambda: len(marked(word)) >= 5, 30, "the command to run")
        time.sleep(2 * BEAT_TIMEOUT)  # beats keep it alive
        assert len(marked(word)) >= 5
        _ip("-n", here, "link", "set", "cable0", "down")
        cut = time.monotonic()
        until(lambda: not marked(word), BEAT_TIMEOUT + GRACE + 5, "the end of the command")
        assert time.monotonic() - cut > BEAT_TIMEOUT / 2, "it was the silence that ended it"
        assert client.poll() is None, "the client knows of nothing yet"
    finally:
        end_tree(client)
        end_tree(server)


CUT = 10.0  # seconds
COUNT = 40
COUNTED = b"".join(b"%d\n" % number for number in range(COUNT))
COUNTING = f"i=0; while [ $i -lt {COUNT} ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 5"


def cut_and_mend(sshd: Sshd, namespaces: tuple[str, str], beat_timeout: float, seconds: float) -> bytes:
    """A durable run's output and exit code, with a network that is cut for so many seconds in the middle of it."""
    here, there = namespaces
    server = subprocess.Popen(
        [need("ip"), "netns", "exec", there, need("sshd"), "-D", "-f", str(sshd.folder / "sshd_config"), "-o", "PidFile=none"]
    )
    module = [sys.executable, "-m", "tests.executors.ssh.test_silent_cut", "", str(sshd.port), str(sshd.folder), str(beat_timeout)]
    command = [need("ip"), "netns", "exec", here, *module]
    client = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, bufsize=0)
    try:
        assert client.stdout is not None
        assert client.stdout.read(2) == b"0\n"
        _ip("-n", here, "link", "set", "cable0", "down")
        time.sleep(seconds)  # this is how long it is cut
        _ip("-n", here, "link", "set", "cable0", "up")
        return b"0\n" + client.communicate(timeout=seconds + 30)[0]
    finally:
        end_tree(client)
        end_tree(server)


def test_output_is_exact_after_a_silent_cut(sshd: Sshd, namespaces: tuple[str, str]) -> None:
    assert cut_and_mend(sshd, namespaces, CUT / 6, CUT) == COUNTED + b"exit 5, left out 0\n"


class _Printing(Recorded):
    def output(self, stream: Stream, data: bytes) -> None:
        super().output(stream, data)
        if stream is Stream.STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


async def _run_durable(port: int, folder: Path, beat_timeout: float) -> None:
    """What happens in the namespace of the client: a durable run whose output is printed as it comes."""
    sshd = Sshd(folder, port, None, {}, folder / "id_ed25519")  # type: ignore[arg-type]  # it runs in the other namespace
    ssh = Ssh(sshd.settings(beat_timeout=beat_timeout, linger=120, grace=GRACE))
    attempt, host, sink = Attempt(id=uuid.uuid4()), sshd.host(address=THERE), _Printing()
    command = Command(script=COUNTING, on_disconnect=OnDisconnect.LINGER)
    while True:
        with suppress(UnreachableError):  # its sshd may not listen yet
            ended = await ssh.run(attempt, host, command, sink)
            break
        await asyncio.sleep(0.1)
    await ssh.ack(attempt, host)
    await ssh.aclose()
    print(f"exit {getattr(ended, 'exit_code', ended)}, left out {sink.gaps[Stream.STDOUT]}")  # noqa: T201 - for the other namespace


async def _run(word: str, port: int, folder: Path, before: str) -> None:
    """What happens in the namespace of the client: the executor, as a worker uses it; `before` is said by a run on the same connection."""
    sshd = Sshd(folder, port, None, {}, folder / "id_ed25519")  # type: ignore[arg-type]  # it runs in the other namespace
    async with runner(sshd.settings(beat_timeout=BEAT_TIMEOUT, grace=GRACE)) as run:
        for _ in range(100):
            with suppress(Exception):  # its sshd may not listen yet
                if before:
                    await run(sshd.host(address=THERE), f"echo {before}")
                await run(sshd.host(address=THERE), TREE, Recorded(), env={"WORD": word})
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1]:
        asyncio.run(_run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
    else:
        asyncio.run(_run_durable(int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
