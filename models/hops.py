"""Jump hosts that stand in the inventory, spelled so that ProxyJump reaches them: by address, user and port."""

from collections.abc import Mapping
from dataclasses import replace

from models.errors import InventoryError
from models.hostsfile import Place
from models.names import join
from models.values import Host

Places = Mapping[str, tuple[Place, ...]]


def with_jumps(hosts: Mapping[str, Host], places: Places) -> dict[str, Host]:
    """The hosts, each with a jump that needs no inventory any more; raises `InventoryError` for a circle."""
    routes = _Routes(hosts, places)
    return {name: replace(host, jump=routes.spell(host)) if host.jump else host for name, host in hosts.items()}


def spell(jump: str, hosts: Mapping[str, Host], places: Places) -> str:
    """A jump that somebody else than a host names, likewise."""
    return _Routes(hosts, places).spell_jump(jump)


class _Routes:
    def __init__(self, hosts: Mapping[str, Host], places: Places) -> None:
        self._hosts = hosts
        self._places = places
        self._known: dict[str, str] = {}

    def spell(self, host: Host) -> str | None:
        """The jump of this host; None when it would jump through itself, as `defaults` make a jump host do."""
        if host.jump is None or host.jump == host.name:
            return None
        if host.jump not in self._known:
            self._known[host.jump] = self.spell_jump(host.jump)
        return self._known[host.jump]

    def spell_jump(self, jump: str) -> str:
        return self._spell(jump, ())

    def _spell(self, jump: str, path: tuple[str, ...]) -> str:
        if jump.lower() == "none":
            return jump
        hops = jump.split(",")
        written = [self._spell_hop(hop) for hop in hops]
        before = self._before(hops[0], path)
        return ",".join([before, *written] if before else written)

    def _before(self, name: str, path: tuple[str, ...]) -> str | None:
        """What a connection jumps through before it comes to this jump host."""
        host = self._hosts.get(name)
        if host is None or host.jump is None or host.jump.lower() in {host.name, "none"}:
            return None
        if name in path:
            place = self._places[name][0]
            raise InventoryError(place.path, f"jump hosts form a circle: {' > '.join((*path, name))}", place.line)
        return self._spell(host.jump, (*path, name))

    def _spell_hop(self, hop: str) -> str:
        host = self._hosts.get(hop)
        return join(host.address or host.name, host.user, host.port) if host else hop
