"""Finds the route to a host: host entry > fleetflow setting if set > ~/.ssh/config > default."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

from executors.ssh.config import ClientConfig, HostConfig
from executors.ssh.jumps import Hop, parse_jumps
from executors.ssh.route import METHODS, Route
from executors.ssh.threads import Threads
from executors.ssh.tokens import local_user
from models.credentials import Credentials
from models.errors import CredentialsError, SettingsError, UnreachableError
from models.settings import Settings
from models.values import Host, HostKeyPolicy

_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_MAX_JUMPS = 8
_FRESH_SECONDS = 2.0  # that a change of the configuration may go unnoticed
_KNOWN_LIMIT = 20_000  # hosts


class Planner:
    """Merges what the host, the settings and the client configuration say."""

    def __init__(self, settings: Settings, threads: Threads) -> None:
        self._settings = settings
        self._threads = threads
        self._config = ClientConfig(settings.ssh_config)
        self._known: dict[tuple[object, ...], Route] = {}
        self._checked = time.monotonic()

    async def route(self, host: Host) -> Route:
        """The route to a host; raises `UnreachableError` when the configuration makes no sense."""
        await self._forget_if_stale()
        login = _login(host)
        key = (host.name, host.address, host.user, host.port, host.jump, host.identity, host.host_key, host.connect_timeout, login)
        known = self._known
        if key not in known:
            known[key] = await self._threads.run(lambda: self._find(host, login))
        return known[key]

    async def _forget_if_stale(self) -> None:
        now = time.monotonic()
        if now - self._checked > _FRESH_SECONDS:
            self._checked = now
            if len(self._known) > _KNOWN_LIMIT or not await self._threads.run(self._config.is_current):
                self._known = {}  # a new one: what is being found now may be stale

    def _find(self, host: Host, login: Credentials | None) -> Route:
        """Reads files, and may run commands of `Match exec`."""
        target = host.address or host.name
        user, port = host.user or self._settings.ssh_user, host.port or self._settings.ssh_port
        try:
            config = self._config.lookup(target, user=user, port=port)
            via = self._via(host, login, config)
        except (SettingsError, ValueError) as error:
            raise UnreachableError(host.name, str(error)) from error
        route = self._build(config, via, login, user=user, identity=host.identity, policy=host.host_key)
        route = _without_loop(host.name, route, proxied=host.jump is None)
        return route if host.connect_timeout is None else _patient(route, host.connect_timeout)

    def _via(self, host: Host, login: Credentials | None, config: HostConfig) -> Route | None:
        """The route to the jump host. Whoever names it says how it is logged in to."""
        if host.jump is not None:
            return self._chain(host.name, parse_jumps(host.jump), None)
        if login is not None and login.jump is not None:
            via = self._chain(host.name, parse_jumps(login.jump), login)
            return None if via and (via.address, via.port) == (config.hostname, config.port or 22) else via  # the jump host itself
        return self._chain(host.name, config.proxy_jump or (), None)

    def _chain(self, name: str, hops: tuple[Hop, ...], login: Credentials | None, depth: int = 0) -> Route | None:
        """The route to the last hop, each through the one before; the first through what its own ProxyJump says."""
        if depth > _MAX_JUMPS:
            raise UnreachableError(name, "the jump hosts lead round in a circle; see ProxyJump in the SSH configuration")
        via: Route | None = None
        for number, hop in enumerate(hops):
            config = self._config.lookup(hop.host, user=hop.user, port=hop.port)
            if number == 0:
                via = self._chain(name, config.proxy_jump or (), None, depth + 1)
            user = hop.user or (login and login.user) or config.user or self._settings.ssh_user
            via = self._build(config, via, login, user=user, identity=None, policy=None)
        return via

    def _build(
        self,
        config: HostConfig,
        via: Route | None,
        login: Credentials | None,
        *,
        user: str | None,
        identity: Path | None,
        policy: HostKeyPolicy | None,
    ) -> Route:
        settings = self._settings
        port = config.port or 22
        return Route(
            address=config.hostname,
            port=port,
            user=user or config.user or local_user(),
            key_name=config.host_key_alias or config.hostname,
            key_port=22 if config.host_key_alias else port,
            policy=_policy(config, policy or settings.ssh_host_key),
            user_known_hosts=config.user_known_hosts_files,
            global_known_hosts=config.global_known_hosts_files,
            hash_known_hosts=bool(config.hash_known_hosts),
            key_algorithms=config.host_key_algorithms,
            login=login,
            identity=_expand(identity if login else identity or settings.ssh_identity),
            identity_files=() if login else _identity_files(config),
            certificate_files=() if login else config.certificate_files,
            identities_only=bool(config.identities_only),
            agent=None if login else _agent(config.identity_agent),
            methods=_methods(config),
            via=via,
            proxy_command=config.proxy_command if via is None else None,
            family=config.address_family or socket.AF_UNSPEC,
            bind_address=config.bind_address,
            connect_timeout=None if "connect_timeout" in settings.model_fields_set else config.connect_timeout or None,
            probe_seconds=config.server_alive_interval or None,
            probes=config.server_alive_count_max or None,
        )


def _login(host: Host) -> Credentials | None:
    """The credentials of a host, where it names any; raises `UnreachableError` when nobody could read them."""
    if isinstance(host.login, CredentialsError):
        raise UnreachableError(host.name, str(host.login)) from host.login
    if host.credentials is not None and host.login is None:
        raise UnreachableError(host.name, f"credentials {host.credentials!r} are known to Prefect alone, and were not read")
    return host.login


def _without_loop(name: str, route: Route, *, proxied: bool) -> Route:
    via = route.via
    if proxied and via is not None and (via.address, via.port, via.user) == (route.address, route.port, route.user):
        raise UnreachableError(name, f"its jump host is the host itself ({via.where}); see ProxyJump in the SSH configuration")
    return route


def _patient(route: Route, seconds: float) -> Route:
    """The route with so many seconds for every step, at its jump hosts too."""
    return replace(route, connect_timeout=seconds, via=route.via and _patient(route.via, seconds))


def _policy(config: HostConfig, chosen: HostKeyPolicy | None) -> HostKeyPolicy:
    if config.no_host_authentication_for_localhost and _is_loopback(config.hostname):
        return HostKeyPolicy.OFF
    return chosen or config.strict_host_key_checking or HostKeyPolicy.STRICT


def _is_loopback(address: str) -> bool:
    return address in {"localhost", "::1"} or address.startswith("127.")


def _identity_files(config: HostConfig) -> tuple[Path, ...]:
    if config.identity_files is not None:
        return config.identity_files
    return tuple(Path(path).expanduser() for path in _DEFAULT_KEYS)


def _expand(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


def _agent(configured: str | None) -> str | None:
    if configured is None:
        return os.environ.get("SSH_AUTH_SOCK") or None
    return None if configured.lower() == "none" else configured


def _methods(config: HostConfig) -> frozenset[str]:
    refused = {
        "publickey": config.pubkey_authentication,
        "password": config.password_authentication,
        "keyboard-interactive": config.kbd_interactive_authentication,
    }
    preferred = config.preferred_authentications
    return frozenset(name for name in METHODS if refused[name] is not False and (preferred is None or name in preferred))
