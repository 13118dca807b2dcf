"""Makes approved agents hosts of the inventory, in hosts.d/agents.yaml, and forgets those that are gone."""

from collections.abc import Iterable, Set
from pathlib import Path

from models import additions
from models.hostsfile import HostEntry
from models.inventory import LOCALHOST, Inventory
from models.ranges import natural
from models.values import ExecutorKind

FILE = "agents.yaml"


def written_at(home: Path) -> float:
    """When the file was last written, in seconds since the epoch; 0 where there is none."""
    try:
        return (home / "hosts.d" / FILE).stat().st_mtime
    except OSError:
        return 0.0


def enlist(home: Path, names: Iterable[str], ssh_config: Path | None = None) -> dict[str, str]:
    """Make these agents hosts; returns those that are known already as hosts that are reached otherwise, each with its place.

    With an `ssh_config` its hosts are, and this machine is: an agent names itself, and must not take what is meant for another.
    """
    inventory = Inventory.load(home, ssh_config)
    taken = {LOCALHOST, *inventory.ssh_names} if ssh_config else set()
    new = sorted({name for name in names if name not in inventory.places and name not in taken}, key=natural)
    if new:
        additions.add(home, FILE, {name: HostEntry(executor=ExecutorKind.AGENT) for name in new})
    return {name: inventory.source(name) for name in names if _is_other(inventory, name, taken)}


def _is_other(inventory: Inventory, name: str, taken: Set[str]) -> bool:
    known = inventory.hosts.get(name)
    return name in taken if known is None else known.executor is not ExecutorKind.AGENT


def strike(home: Path, names: Iterable[str]) -> None:
    """Forget the hosts of these names that are there as agents alone."""
    places = Inventory.load(home).places
    ours = home / "hosts.d" / FILE
    gone = [name for name in names if name in places and all(place.path == ours for place in places[name])]
    if gone:
        additions.remove(home, gone)
