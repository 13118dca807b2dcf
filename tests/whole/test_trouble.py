"""Every way to go wrong in one task: each host ends in its own state, with its own words, in its own time."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers.sshd import Sshd, make_key, run_sshd
from tests.stacks import Stack, marked, new_word
from tests.until import until

SCRIPT = """
case "$WHERE" in
    *exit*) exit 3;;
    *signal*) kill -9 $$;;
    *slow*) echo part; sleep 60;;
    *stopped*) echo part; sleep 60;;
    *dies*) kill -9 $PPID; sleep 60;;
    *) echo fine;;
esac
"""


@contextmanager
def speaking(greeting: bytes) -> Iterator[int]:
    """A port that says `greeting` to everybody, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(greeting)
                    kept.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@pytest.fixture
def sleepy(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd that never gets through with a login."""
    options = ["AuthorizedKeysCommand /bin/sleep 30", "AuthorizedKeysCommandUser root"]
    with run_sshd(tmp_path / "sleepy", [*options, "AuthorizedKeysFile none"]) as server:
        yield server


def _printed(stack: Stack, host: str, word: str) -> bytes:
    """What is stored of a host's output in the task that has this word, once there is one."""
    store = stack.store()
    try:
        for line in store.tasks(1):
            execution = next((found for found in store.executions(line.id) if found.host == host), None)
            if execution is not None and execution.attempt_id and store.task(line.id).command.env.get("WORD") == word:
                return b"".join(piece.data for piece in store.output(execution.attempt_id))
        return b""
    finally:
        store.close()


def test_each_host_ends_in_its_own_state(stack: Stack, sshd: Sshd, sleepy: Sshd, tmp_path: Path) -> None:
    word = new_word()
    other_key = make_key(tmp_path / "other").with_name("other.pub").read_text().split()[1]
    (tmp_path / "known_changed").write_text(f"[127.6.0.1]:{sshd.port} ssh-ed25519 {other_key}\n")
    (tmp_path / "known_newtype").write_text(f"[127.6.0.5]:{sshd.port} {sshd.public_key('rsa')}\n")
    stranger = make_key(tmp_path / "stranger")
    with speaking(b"") as mute, speaking(b"SSH-2.0-Mute\r\n") as greets, socket.create_server(("127.0.0.1", 0)) as unused:
        refused = unused.getsockname()[1]
        unused.close()
        person = Path(stack.environ["HOME"])
        config = (person / ".ssh" / "config").read_text()
        (person / ".ssh" / "config").write_text(
            f"Host changed\n  HostName 127.6.0.1\n  Port {sshd.port}\n  UserKnownHostsFile {tmp_path / 'known_changed'}\n"
            f"Host sleepy\n  HostName 127.6.0.2\n  Port {sleepy.port}\n  UserKnownHostsFile {sleepy.known_hosts}\n"
            f"  IdentityFile {sleepy.identity}\n"
            f"Host unknown\n  HostName 127.6.0.3\n  Port {sshd.port}\n  UserKnownHostsFile /dev/null\n"
            f"Host rejected\n  HostName 127.6.0.4\n  Port {sshd.port}\n  IdentityFile {stranger}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {sshd.known_hosts}\n"
            f"Host newtype\n  HostName 127.6.0.5\n  Port {sshd.port}\n  UserKnownHostsFile {tmp_path / 'known_newtype'}\n"
            f"  HostKeyAlgorithms ssh-ed25519\n"
            f"Host unresolved\n  HostName no-such-host.invalid\n" + config
        )  # fmt: skip
        (stack.home / "hosts.yaml").write_text(
            "hosts:\n"
            + "".join(
                f"  {name}: {{address: 127.6.1.{n}}}\n"
                for n, name in enumerate(["good1", "good2", "exit", "signal", "slow", "dies", "stopped"], 1)
            )
            + f"  mute: {{address: 127.0.0.1, port: {mute}}}\n  greets: {{address: 127.0.0.1, port: {greets}}}\n"
            f"  refused: {{address: 127.0.0.1, port: {refused}}}\n"
        )
        try:
            began = time.monotonic()
            names = "good1,good2,exit,signal,slow,dies,stopped,mute,greets,refused,changed,sleepy,unknown,rejected,newtype,unresolved"
            # The host's own name reaches the script through its address: the script is one for all.
            numbers = {1: "good", 2: "good", 3: "exit", 4: "signal", 5: "slow", 6: "dies", 7: "stopped"}
            cases = "".join(f"*127.6.1.{number}\\ *) WHERE={name};;" for number, name in numbers.items())
            process = stack.start(
                "run", f'case "$SSH_CONNECTION " in {cases} esac; {SCRIPT}', "-t", names, "--timeout", "6", "--connect-timeout", "3",
                "--env", f"WORD={word}", "--json",
            )  # fmt: skip
            until(lambda: _printed(stack, "stopped", word) == b"part\n", 20, "the output of a host before it stops")
            stopped = _stop_session(sshd, "127.6.1.7")
            out, err = process.communicate(timeout=60)
            took = time.monotonic() - began
        finally:
            (stack.home / "hosts.yaml").unlink()
            (person / ".ssh" / "config").write_text(config)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    rows = {row["host"]: row for row in map(json.loads, out.splitlines())}
    assert process.returncode == 1, err
    ends = {name: (row["state"], row["exit_code"]) for name, row in rows.items()}
    assert ends == {
        "good1": ("succeeded", 0),
        "good2": ("succeeded", 0),
        "exit": ("failed", 3),
        "signal": ("failed", 137),
        "slow": ("timed_out", None),
        "dies": ("lost", None),
        "stopped": ("timed_out", None),  # its session is dead, but another one ends the command
        "mute": ("unreachable", None),
        "greets": ("unreachable", None),
        "refused": ("unreachable", None),
        "changed": ("unreachable", None),
        "sleepy": ("unreachable", None),
        "unknown": ("unreachable", None),
        "rejected": ("unreachable", None),
        "newtype": ("unreachable", None),
        "unresolved": ("unreachable", None),
    }
    words = {
        "slow": "timed out after 6 s",
        "mute": "waiting for its banner",
        "greets": "exchanging keys",
        "refused": "connection refused",
        "changed": "has changed",
        "sleepy": "logging in",
        "unknown": "not known",
        "rejected": "stranger",
        "newtype": "of a type not known for it",
        "unresolved": "does not resolve",
    }
    for name, text in words.items():
        assert text in rows[name]["error"], rows[name]
    assert rows["slow"]["stdout"] == rows["stopped"]["stdout"] == "part\n", "what was printed until then is kept"
    good = [rows[name]["finished_at"] for name in ("good1", "good2", "exit", "signal")]
    assert max(good) < min(rows[name]["finished_at"] for name in ("slow", "mute", "greets", "sleepy")), "nobody waits for a sick host"
    assert took < 30
    until(lambda: not marked(word), 10, "the end of every command")


def _stop_session(sshd: Sshd, address: str) -> list[int]:
    """Freeze the server side of the connection to `address` once its command prints: it is silent from then on."""
    pattern = address.encode()

    def found() -> list[int]:
        return [pid for pid in sshd.sessions() if any(pattern in environ for environ in _environs_below(pid))]

    pids = until(found, 20, "the command on the host to be stopped")
    time.sleep(1)  # what it printed is on its way; the moment of the stop is the test's to choose
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def _environs_below(pid: int) -> Iterator[bytes]:
    with suppress(OSError):  # it has ended meanwhile
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield Path(f"/proc/{child}/environ").read_bytes()
