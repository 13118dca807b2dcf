"""Logs in on a connection whose host key has been accepted: keys first, then the password."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import paramiko

from executors.ssh.credentials import Agent, Keyring, Offers, gather, require
from executors.ssh.route import Route
from executors.ssh.transport import Transport
from models.errors import AuthenticationError

MAX_OFFERS = 5  # sshd hangs up after 6 failures by default (MaxAuthTries)


@dataclass(frozen=True)
class Credentials:
    """What this process may log in with."""

    keyring: Keyring
    password: str | None = field(repr=False)


@dataclass
class _Tries:
    """What was tried and what the server would take, for the error."""

    usable: frozenset[str]
    methods: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    def add(self, method: str) -> None:
        if method not in self.methods:
            self.methods.append(method)

    def allows(self, method: str) -> bool:
        """Whether the configuration and the server take this method, as far as the server has said."""
        return method in self.usable and (not self.accepted or method in self.accepted)


def log_in(transport: Transport, name: str, route: Route, credentials: Credentials) -> None:
    """Authenticate; raises `AuthenticationError` that names the methods and keys tried. Blocks."""
    if route.identity is not None:
        require(name, route.identity)
    tries = _Tries(usable=route.methods)
    password = route.login.password if route.login else credentials.password
    with Agent(route.agent) as agent:
        offers = gather(route, credentials.keyring, agent)
        if _offer_keys(transport, route.user, offers, tries):
            return
    if password is not None and _give_password(transport, route.user, password, tries):
        return
    raise AuthenticationError(name, _explain(route, offers, tries, has_password=password is not None))


def _offer_keys(transport: Transport, user: str, offers: Offers, tries: _Tries) -> bool:
    for offer in offers.keys[:MAX_OFFERS]:
        if not tries.allows("publickey"):
            return False
        tries.add("publickey")
        if _accepted(transport, tries, partial(transport.auth_publickey, user, offer.key)):
            return True
    return False


def _give_password(transport: Transport, user: str, password: str, tries: _Tries) -> bool:
    if tries.allows("password"):
        tries.add("password")
        if _accepted(transport, tries, partial(transport.auth_password, user, password, fallback=False)):
            return True
    if not tries.allows("keyboard-interactive"):
        return False
    tries.add("keyboard-interactive")
    return _accepted(transport, tries, partial(transport.auth_interactive, user, partial(_answer, password)))


def _answer(password: str, _title: str, _instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
    """The password for each prompt that hides what is typed; nothing for the others, which ask for something else."""
    return ["" if echo else password for _, echo in prompts]


def _accepted(transport: Transport, tries: _Tries, attempt: Callable[[], list[str]]) -> bool:
    """Whether the server lets us in now; what it says about methods is kept."""
    try:
        tries.accepted = attempt()
    except paramiko.BadAuthenticationType as error:
        tries.accepted = error.allowed_types
        return False
    except paramiko.AuthenticationException:
        if not transport.is_active():
            raise
        return False
    return not tries.accepted  # what is left here are further methods that the server wants to see as well


def _explain(route: Route, offers: Offers, tries: _Tries, *, has_password: bool) -> str:
    keys = ", ".join(offer.label for offer in offers.keys[:MAX_OFFERS]) or "none"
    text = f"{route.user}@{route.where} accepts none of our credentials (tried {' and '.join(tries.methods) or 'nothing'}; keys: {keys})"
    if len(offers.keys) > MAX_OFFERS:
        text += f"; {len(offers.keys) - MAX_OFFERS} more keys were not offered: name the right one with --identity"
    if tries.accepted:
        text += f"; it wants {' or '.join(tries.accepted)}"
        if not has_password and tries.allows("password"):
            text += f" (credentials {route.login.name!r} hold none)" if route.login else " (FLEETFLOW_SSH_PASSWORD is not set)"
    return "; ".join((text, *offers.notes))
