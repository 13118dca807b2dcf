"""Accepts or refuses a host's key, before anything of ours is sent to it."""

import threading
from pathlib import Path

import paramiko

from executors.ssh.known_hosts import KnownHosts, Standing, explain
from executors.ssh.options import select_algorithms
from executors.ssh.route import Route
from executors.ssh.transport import KEY_ALGORITHMS
from models.errors import HostKeyError
from models.values import HostKeyPolicy

_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # how an ssh-rsa key signs


class HostKeys:
    """The known hosts of all routes; each set of files is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[tuple[Path, ...], tuple[Path, ...], bool], KnownHosts] = {}

    def algorithms(self, route: Route) -> list[str]:
        """The host key algorithms to ask for: first those whose keys are known, so that a host with several keys is not "changed"."""
        allowed = select_algorithms(route.key_algorithms, KEY_ALGORITHMS)
        if route.key_algorithms and route.key_algorithms[0] not in "+-":
            return allowed  # the order is the user's own
        known = self._known_hosts(route).algorithms(route.key_name, route.key_port)
        first = [name for kind in known for name in (_RSA if kind == "ssh-rsa" else (kind,)) if name in allowed]
        return list(dict.fromkeys([*first, *allowed]))

    def check(self, name: str, route: Route, key: paramiko.PKey) -> None:
        """Raise `HostKeyError` unless the policy accepts the key. May block."""
        known_hosts = self._known_hosts(route)
        verdict = known_hosts.check(route.key_name, route.key_port, key)
        if verdict.standing is Standing.UNKNOWN and route.policy is HostKeyPolicy.ACCEPT_NEW:
            try:
                verdict = known_hosts.add(route.key_name, route.key_port, key)
            except HostKeyError as error:
                raise HostKeyError(name, error.reason) from error
        if verdict.standing is Standing.KNOWN:
            return
        if verdict.standing is Standing.REVOKED or route.policy is not HostKeyPolicy.OFF:
            raise HostKeyError(name, explain(verdict, route.key_name, route.key_port, key))

    def _known_hosts(self, route: Route) -> KnownHosts:
        files = (route.user_known_hosts, route.global_known_hosts, route.hash_known_hosts)
        with self._lock:
            if files not in self._files:
                self._files[files] = KnownHosts(*files[:2], hash_names=files[2])
            return self._files[files]
