"""The one table that turns what sockets and paramiko raise before the start into `UnreachableError`.

UnreachableError
├── AuthenticationError, HostKeyError     raised where they are found, with their reason
└── TurnedAwayError                       the server is too busy to greet us: try again
"""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

import paramiko

from models.errors import UnreachableError


class TurnedAwayError(UnreachableError):
    """The server closed the connection before its banner: MaxStartups, or a listener that has nothing behind it."""


@dataclass(frozen=True)
class Step:
    """What was being tried when an error came, in words that fit "while ..." ."""

    doing: str
    where: str = ""  # address and port


Reason = Callable[[BaseException, Step], str]

_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}


def _os_reason(error: BaseException, step: Step) -> str:
    number = getattr(error, "errno", None)
    if number in _NO_ROUTE:
        return f"no route to {step.where}"
    return f"{getattr(error, 'strerror', None) or str(error) or type(error).__name__} while {step.doing}"


_TABLE: tuple[tuple[type[BaseException], Reason], ...] = (
    (socket.gaierror, lambda error, step: f"the name does not resolve: {step.where} ({getattr(error, 'strerror', error)})"),
    (UnicodeError, lambda _, step: f"the name does not resolve: {step.where} (it is no host name)"),
    (ConnectionRefusedError, lambda _, step: f"connection refused by {step.where}"),
    (TimeoutError, lambda _, step: f"no answer from {step.where} while {step.doing}"),
    (ConnectionError, lambda _, step: f"{step.where} closed the connection while {step.doing}"),
    (EOFError, lambda _, step: f"{step.where} closed the connection while {step.doing}"),
    (paramiko.ssh_exception.IncompatiblePeer, lambda error, step: f"no algorithm in common with {step.where}: {error}"),
    (paramiko.ssh_exception.ChannelException, lambda error, step: f"{step.where} refuses while {step.doing}: {error.args[-1]}"),
    (paramiko.SSHException, lambda error, step: f"{error} while {step.doing}"),
    (OSError, _os_reason),
)


def reason_of(error: BaseException, step: Step) -> str:
    """One line that says what went wrong."""
    for kind, reason in _TABLE:
        if isinstance(error, kind):
            return reason(error, step)
    return f"{error or type(error).__name__} while {step.doing}"


def unreachable(host: str, error: BaseException, step: Step) -> UnreachableError:
    """`error` as what it means before the start."""
    return error if isinstance(error, UnreachableError) else UnreachableError(host, reason_of(error, step))


def with_host(host: str, error: UnreachableError) -> UnreachableError:
    """The same error under another name: several hosts may share one handshake."""
    return error if error.host == host else type(error)(host, error.reason)
