"""An SSH server that asks for a password: OpenSSH's would need an account of the machine for that."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import paramiko


@dataclass
class Accounts(paramiko.ServerInterface):
    """Who may log in, and how; `asked` keeps the methods that were tried."""

    password: str
    methods: tuple[str, ...] = ("password",)
    first: paramiko.PKey | None = None  # a key that is wanted before the password
    asked: list[str] = field(default_factory=list)
    _has_shown_key: bool = False

    def get_allowed_auths(self, username: str) -> str:
        return "publickey" if self.first is not None and not self._has_shown_key else ",".join(self.methods)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.asked.append("publickey")
        if self.first is None or key.asbytes() != self.first.asbytes():
            return paramiko.AUTH_FAILED
        self._has_shown_key = True
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_password(self, username: str, password: str) -> int:
        self.asked.append("password")
        return self._judge(password)

    def check_auth_interactive(self, username: str, submethods: str) -> int | paramiko.InteractiveQuery:
        self.asked.append("keyboard-interactive")
        return paramiko.InteractiveQuery("", "Prove it.", ("Password: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return self._judge(responses[0])

    def _judge(self, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if password == self.password else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_execute, args=(channel, command.decode()), daemon=True).start()
        return True


@contextmanager
def run_password_server(known_hosts: Path, accounts: Callable[[], Accounts]) -> Iterator[int]:
    """Serve on a free port, which is given; the host key is added to `known_hosts`."""
    key = paramiko.ECDSAKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        with known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
        threading.Thread(target=_accept, args=(listener, key, accounts), daemon=True).start()
        yield port


def _accept(listener: socket.socket, key: paramiko.PKey, accounts: Callable[[], Accounts]) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=accounts())


def _execute(channel: paramiko.Channel, command: str) -> None:
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True).start()
        pumps = [
            threading.Thread(target=_pump, args=pair)
            for pair in ((process.stdout, channel.sendall), (process.stderr, channel.sendall_stderr))
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        channel.send_exit_status(process.wait())
        channel.close()


def _feed(channel: paramiko.Channel, stdin: IO[bytes]) -> None:
    with suppress(OSError):
        while chunk := channel.recv(4096):
            stdin.write(chunk)
            stdin.flush()
        stdin.close()


def _pump(stream: IO[bytes], send: Callable[[bytes], object]) -> None:
    with suppress(OSError):
        while chunk := stream.read1(65536):  # type: ignore[attr-defined]  # a BufferedReader
            send(chunk)
