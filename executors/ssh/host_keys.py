"""Accepts or refuses a host's key, before anything of ours is sent to it."""

import logging
import threading
from pathlib import Path
from typing import Any

import paramiko

from executors.ssh.algorithms import ALL, key_type
from executors.ssh.certificates import SUFFIX, Certificate, CertificateError, read_certificate
from executors.ssh.known_hosts import KnownHosts, Standing, explain, fingerprint_of
from executors.ssh.options import select_algorithms
from executors.ssh.route import Route
from models.errors import HostKeyError
from models.values import HostKeyPolicy

logger = logging.getLogger(__name__)


class HostKeys:
    """The known hosts of all routes; each set of files is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[tuple[Path, ...], tuple[Path, ...], bool], KnownHosts] = {}

    def algorithms(self, route: Route) -> list[str]:
        """The host key algorithms to ask for, in OpenSSH's order (order_hostkeyalgs in sshconnect.c).

        First what known_hosts can judge: certificates when it names an authority for the host, and keys of the types that it
        knows, so that a host with several keys is not "changed".
        """
        allowed = select_algorithms(route.key_algorithms, ALL)
        if route.key_algorithms and route.key_algorithms[0] not in "+-":
            return allowed  # the order is the user's own
        known_hosts = self._known_hosts(route)
        known = known_hosts.algorithms(route.key_name, route.key_port)
        certified = known_hosts.has_authority(route.key_name, route.key_port)
        first = [name for name in allowed if key_type(name) in known or (certified and name.endswith(SUFFIX))]
        return list(dict.fromkeys([*first, *allowed]))

    def check(self, name: str, route: Route, key: paramiko.PKey) -> None:
        """Raise `HostKeyError` unless the policy accepts the key, or the certificate that came with it. May block."""
        certificate = _certificate(name, key)
        if certificate is None:
            self._check_plain(name, route, key, "")
            return
        reason = self._why_not(name, route, certificate)
        if reason:  # then the key counts as if it had come alone
            self._check_plain(name, route, certificate.key, f"; its certificate does not count: {reason}")

    def _why_not(self, name: str, route: Route, certificate: Certificate) -> str:
        """Why a host's certificate does not prove it; empty when it does."""
        verdict = self._known_hosts(route).check_certificate(route.key_name, route.key_port, certificate)
        if verdict.standing is Standing.REVOKED and verdict.entry is not None:
            raise HostKeyError(
                name, f"the host key of {route.key_name} or the authority of its certificate is revoked at {verdict.entry.place}"
            )
        if verdict.entry is None:
            return f"no @cert-authority line for {route.key_name} has its authority {fingerprint_of(certificate.authority)}"
        reason = certificate.why_not_host(route.key_name)
        if reason:
            logger.warning("%s: the host certificate of %s does not count: %s", name, route.where, reason)
        return reason

    def _check_plain(self, name: str, route: Route, key: paramiko.PKey, note: str) -> None:
        known_hosts = self._known_hosts(route)
        verdict = known_hosts.check(route.key_name, route.key_port, key)
        if verdict.standing is Standing.UNKNOWN and route.policy is HostKeyPolicy.ACCEPT_NEW:
            try:
                verdict = known_hosts.add(route.key_name, route.key_port, key)
            except HostKeyError as error:
                raise HostKeyError(name, error.reason + note) from error
        if verdict.standing is Standing.KNOWN:
            return
        if verdict.standing is Standing.REVOKED or route.policy is not HostKeyPolicy.OFF:
            raise HostKeyError(name, explain(verdict, route.key_name, route.key_port, key) + note)

    def _known_hosts(self, route: Route) -> KnownHosts:
        files = (route.user_known_hosts, route.global_known_hosts, route.hash_known_hosts)
        with self._lock:
            if files not in self._files:
                self._files[files] = KnownHosts(*files[:2], hash_names=files[2])
            return self._files[files]


def _certificate(name: str, key: paramiko.PKey) -> Certificate | None:
    shown: Any = getattr(key, "public_blob", None)
    if shown is None:
        return None
    try:
        return read_certificate(shown.key_blob)
    except CertificateError as error:
        raise HostKeyError(name, f"its host certificate is refused: {error}") from None
