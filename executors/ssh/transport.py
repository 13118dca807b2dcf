"""paramiko as we use it: its defaults changed where they were measured to cost, and what it keeps to itself made known."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_REQUEST, cMSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST
from paramiko.packet import Packetizer

from executors.ssh import algorithms
from executors.ssh.links import Link

# paramiko logs a traceback for each host that closes a connection; we raise one error for it instead.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class _Packets(Packetizer):
    """Notes when the server was last heard, and what it said before its banner."""

    def __init__(self, link: Any) -> None:
        super().__init__(link)
        self.heard = time.monotonic()
        self.lines: list[str] = []

    def start_handshake(self, timeout: float) -> None:
        """Nothing: paramiko starts a thread for each handshake here, which outlives a failed one; the caller's deadline does the work."""

    def read_message(self) -> tuple[int, paramiko.Message]:
        message = super().read_message()
        self.heard = time.monotonic()
        return message

    def readline(self, timeout: float) -> str:
        line = super().readline(timeout)
        self.lines.append(line)
        return line


_KEX = (
    "curve25519-sha256@libssh.org",
    "mlkem768x25519-sha256",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group-exchange-sha256",
)

_internal: Any = paramiko.Transport  # what its type stubs leave out


class Transport(paramiko.Transport):
    """One connection to one server, and the thread that reads it."""

    # paramiko wakes each connection's thread this often to see whether it was closed: at its 0.1 s, 1,000 idle
    # connections cost 21 % of a core. Ours are closed by `cut`, which wakes the thread itself.
    _active_check_timeout = 30
    # The fastest first: AES-GCM needs no separate MAC, and curve25519 takes 1 ms where the DH groups take 20-68.
    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
        "aes128-cbc",
        "aes256-cbc",
    )
    _preferred_kex = tuple(name for name in _KEX if name in _internal._kex_info)  # noqa: SLF001 - some depend on what OpenSSL has

    _preferred_keys = algorithms.ALL

    # paramiko ignores `exit-signal`, and does not tell a channel closed by the server from one that fell with the connection.
    _channel_handler_table = {  # noqa: RUF012 - as paramiko declares it
        **_internal._channel_handler_table,  # noqa: SLF001 - paramiko has no other door
        MSG_CHANNEL_REQUEST: lambda channel, message: channel.transport.take_request(channel, message),
        MSG_CHANNEL_CLOSE: lambda channel, message: channel.transport.take_close(channel, message),
    }

    packetizer: _Packets

    def __init__(self, link: Link, patience: float) -> None:
        as_socket: Any = link  # it is enough of one
        super().__init__(as_socket, packetizer_class=_Packets)
        self._link = link
        self._key_algorithms: tuple[str, ...] = algorithms.ALL
        self.banner_timeout = self.auth_timeout = self.channel_timeout = patience
        self._ended: set[int] = set()  # channels whose process is gone
        self.farewell = ""  # why the server said it disconnects

    def want_keys(self, names: Sequence[str]) -> None:
        """Say what host keys to ask for, best first, before the handshake; one that comes with a certificate has it as `public_blob`."""
        self._key_algorithms = tuple(names)

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        return self._key_algorithms

    def _verify_key(self, host_key: bytes, signature: bytes) -> None:
        """The server must prove what was agreed upon; paramiko takes any kind of key and of signature for it."""
        algorithms.check_proof(self.host_key_type or "", host_key, signature)
        verify: Any = super()._verify_key  # type: ignore[misc]  # left out of the stubs
        try:
            verify(host_key, signature)
        except ValueError as error:
            raise paramiko.SSHException(f"the server's host key is damaged ({error})") from error

    @property
    def heard(self) -> float:
        """When the last packet came (time.monotonic)."""
        return self.packetizer.heard

    @property
    def first_line(self) -> str:
        """What the server said first, when that was no SSH banner."""
        return next((line for line in self.packetizer.lines if not line.startswith("SSH-")), "")

    @property
    def has_banner(self) -> bool:
        return bool(self.remote_version)

    def probe(self) -> None:
        """Ask for a sign of life; any packet is an answer. paramiko's own keep-alive asks for none."""
        message = paramiko.Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        self._send(message)

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        """Start a command on a session, without waiting for the server's word; if it refuses, it closes the channel."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(command)
        self._send(message)

    def _send(self, message: paramiko.Message) -> None:
        send: Any = super()._send_user_message  # type: ignore[misc]  # left out of the stubs
        send(message)

    def can_send(self) -> bool:
        """Whether a small packet would go out at once: no key exchange under way, room in the link."""
        return self.clear_to_send.is_set() and self._link.can_send()

    def cut(self) -> None:
        """End the connection at once and wake everyone who waits on it; over a jump host this may block."""
        self._link.cut()

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.farewell = message.get_text()

    def has_ended(self, channel: paramiko.Channel) -> bool:
        """Whether the server has said that the channel's process is gone (and not just the connection)."""
        return channel.chanid in self._ended

    def take_request(self, channel: Any, message: paramiko.Message) -> None:
        """A channel request has come: does it tell the end?"""
        place = message.packet.tell()
        kind = message.get_text()
        message.packet.seek(place)
        if kind in {"exit-status", "exit-signal"}:
            self._ended.add(channel.chanid)
        channel._handle_request(message)  # noqa: SLF001 - what paramiko does with it
        if kind == "exit-signal":
            channel.status_event.set()

    def take_close(self, channel: Any, message: paramiko.Message) -> None:
        """The server has closed a channel."""
        self._ended.add(channel.chanid)
        channel._handle_close(message)  # noqa: SLF001 - what paramiko does with it

    def forget(self, channel: paramiko.Channel) -> None:
        """The channel has no further use."""
        self._ended.discard(channel.chanid)
