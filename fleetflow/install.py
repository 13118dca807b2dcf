"""`fleetflow agent install` and `remove`: the agent comes to hosts over SSH, by a task as any other.

Nothing that is secret travels: each host makes its agent's credential itself, and tells its SHA-256, over a connection whose host key
was checked. Who may log in to the host speaks for it.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from fleetflow.confirm import confirm
from fleetflow.enrolment import PROGRAM, hub_url, open_agents, ring
from fleetflow.hub import certificate_shown
from fleetflow.results import Printer, print_lines, trouble
from fleetflow.run import find_target, send
from fleetflow.text import inert, lines
from fleetflow.who import me
from models.errors import UsageError
from models.names import HOST, parse
from models.settings import Settings
from models.values import ExecutorKind, Host, HostKeyPolicy, OnDisconnect

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.agents import Enrolled
    from models.rows import Row

_PATIENCE = 120.0  # seconds that a host has
_FOLDER = re.compile(r"(/[A-Za-z0-9_.-]+)+")
_LOOPBACK = re.compile(r"^(127\..*|::1|localhost)$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Service(StrEnum):
    """Who looks after the agent on its host."""

    AUTO = "auto"  # systemd, where it runs and we are root
    SYSTEMD = "systemd"
    PLAIN = "plain"  # nobody


_Target = Annotated[str, typer.Option("--target", "-t", help="Hosts, which are reached over SSH: web[1-9],@db,!web7  user@name:port.")]
_User = Annotated[str | None, typer.Option("--user", "-u", help="User to log in as over SSH.")]
_Identity = Annotated[Path | None, typer.Option("--identity", "-i", help="SSH private key to offer first.")]
_Credentials = Annotated[str | None, typer.Option(metavar="NAME", help="Prefect block of SSH credentials that the worker logs in with.")]
_HostKey = Annotated[HostKeyPolicy | None, typer.Option(help="What to do with a host key that is not in known_hosts.")]
_Become = Annotated[bool, typer.Option("--become", help="Do it as root, by sudo; else the agent is the one of the user who logs in.")]
_Password = Annotated[
    str | None, typer.Option(metavar="secret:NAME", help="What to answer when sudo asks: the name of a secret of the worker.")
]
_Folder = Annotated[
    str,
    typer.Option(help="Folder for the agent alone, in the place of /usr/local/lib and /var/lib/fleetflow-agent, or ~/.fleetflow/agent."),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal to type the number of many hosts.")]


def install(
    *,
    target: _Target,
    service: Annotated[Service, typer.Option(help="Who starts the agent: systemd, or nobody after a reboot (plain).")] = Service.AUTO,
    hub: Annotated[str, typer.Option(help="URL of the hub as hosts reach it; default: that of the local stack.")] = "",
    fingerprint: Annotated[str, typer.Option(help="SHA-256 of the hub's certificate; default: of the local stack's own.")] = "",
    user: _User = None,
    identity: _Identity = None,
    credentials: _Credentials = None,
    host_key: _HostKey = None,
    become: _Become = False,
    become_password: _Password = None,
    folder: _Folder = "",
    yes: _Yes = False,
) -> None:
    """Bring the agent to hosts over SSH, or a newer one: commands that run there go on. Its hosts are approved.

    Exit code: as for `run`.
    """
    from models.enlisting import enlist

    settings = Settings.load()
    hosts = _check(settings, target, folder, yes=yes)
    program = PROGRAM.read_bytes()
    url = hub_url(settings, hub)
    fingerprint = fingerprint or certificate_shown(settings, url) or ""
    _warn(url, hosts)
    rows = _Rows()
    code = send(
        settings,
        _parameters("install", target, user, identity, credentials, host_key, become, become_password)
        | {"arguments": [hashlib.sha256(program).hexdigest(), url, fingerprint.replace(":", ""), service.value, folder]}
        | {"stdin": program.decode()},
        rows,
        wait=True,
    )
    said = {name: (host, told) for name, (host, text) in rows.by_agent().items() if (told := _read(host, text))}
    refused: Mapping[str, str] = {}
    if said:
        with open_agents(settings) as agents:
            refused = agents.install({name: told.agent for name, (_, told) in said.items()}, me())
        ring(settings)
    for name, (host, told) in said.items():
        if reason := refused.get(name):
            typer.echo(f"{inert(host)}: {inert(reason)}", err=True)
        else:
            typer.echo(f"{inert(host)}: agent {name} is installed; {inert(told.how)}")
    done = [name for name in said if name not in refused]
    for name, place in enlist(settings.home, done).items():
        typer.echo(f"host {name} is not reached by its agent, as {place} says; `--executor agent` does it", err=True)
    raise typer.Exit(code or (1 if len(done) < len(rows.succeeded) else 0))


def remove(
    *,
    target: _Target,
    user: _User = None,
    identity: _Identity = None,
    credentials: _Credentials = None,
    host_key: _HostKey = None,
    become: _Become = False,
    become_password: _Password = None,
    folder: _Folder = "",
    yes: _Yes = False,
) -> None:
    """Take the agent from hosts over SSH, with all that it keeps, and revoke it. What it runs is ended there, and `lost` here.

    Exit code: as for `run`. A host that is not reached keeps its agent; `agent revoke` shuts that out.
    """
    from models.enlisting import strike

    settings = Settings.load()
    _check(settings, target, folder, yes=yes)
    rows = _Rows()
    given = _parameters("remove", target, user, identity, credentials, host_key, become, become_password)
    code = send(settings, given | {"arguments": [folder]}, rows, wait=True)
    gone = rows.by_agent()
    if gone:
        with open_agents(settings) as agents:
            agents.dismiss(list(gone), me())
        ring(settings)
        strike(settings.home, gone)
    for host, said in gone.values():
        for line in lines(said):
            typer.echo(f"{inert(host)}: {line}")
    raise typer.Exit(code)


class _Rows(Printer):
    """Keeps what hosts said, and shows what went wrong."""

    def __init__(self) -> None:
        super().__init__(fold=False, as_json=False)
        self.succeeded: list[Row] = []

    def take(self, row: "Row") -> None:
        if trouble(row) is None:
            self.succeeded.append(row)
        else:
            print_lines({**row, "stdout": ""}, self._out, self._err)

    def by_agent(self) -> dict[str, tuple[str, str]]:
        """The hosts that did it, and what they said, by the names of their agents."""
        hosts = _by_agent(row["host"] for row in self.succeeded)
        said = {row["host"]: row["stdout"] for row in self.succeeded}
        return {name: (host, said[host]) for name, host in hosts.items()}


def _by_agent(hosts: Iterable[str]) -> dict[str, str]:
    """The hosts by the names that their agents have; raises `UsageError` where one has none, or two have the same."""
    found: dict[str, str] = {}
    for host in hosts:
        name = parse(host).host
        if not HOST.fullmatch(name):
            raise UsageError(f"host {host}: its agent needs a name; `fleetflow host add NAME --address {name}` gives it one")
        if name in found:
            raise UsageError(f"hosts {found[name]} and {host}: their agents would both be {name}")
        found[name] = host
    return found


def _parameters(
    script: str,
    target: str,
    user: str | None,
    identity: Path | None,
    credentials: str | None,
    host_key: HostKeyPolicy | None,
    become: bool,
    become_password: str | None,
) -> dict[str, Any]:
    """The flow's parameters, but for arguments and stdin."""
    parts = (PROGRAM.with_name(name).read_text() for name in ("common.sh", f"{script}.sh"))
    given = {
        "script": "".join(parts),
        "script_name": f"agent {script}",
        "target": target,
        "executor": ExecutorKind.SSH.value,
        "timeout": _PATIENCE,
        "on_disconnect": OnDisconnect.END.value,
        "user": user,
        "identity": identity and str(identity.expanduser().absolute()),
        "credentials": credentials,
        "host_key": host_key and host_key.value,
        "become": become or None,
        "become_password": become_password,
    }
    return {name: value for name, value in given.items() if value is not None}


def _warn(url: str, hosts: Iterable[Host]) -> None:
    """A hub on the loopback interface is out of reach for others, unless somebody has made a way for them."""
    addresses = (parse(host.address or host.name).host for host in hosts)
    if _LOOPBACK.search(urlsplit(url).hostname or "") and not all(map(_LOOPBACK.search, addresses)):
        typer.echo(f"the hub {url} is reached from this machine alone; --hub names it as hosts reach it", err=True)


def _check(settings: Settings, target: str, folder: str, *, yes: bool) -> tuple[Host, ...]:
    if folder and (not _FOLDER.fullmatch(folder) or ".." in folder.split("/")):
        raise UsageError(f"--folder {folder}: give a whole path of letters, digits, '.', '_' and '-'")
    hosts = find_target(settings, target)
    _by_agent(host.name for host in hosts)
    if not yes:
        confirm(len(hosts), settings.confirm_hosts)
    return hosts


@dataclass(frozen=True, slots=True)
class _Told:
    """What a host tells of its agent, and how that runs there."""

    agent: "Enrolled"
    how: str


def _read(host: str, said: str) -> _Told | None:
    """What a host says; None, and a line on it, where it cannot be read."""
    from models.agents import Enrolled

    *_, how, last = ["", "", *said.splitlines()]
    try:
        told = json.loads(last)
        words = {key: str(told[key]) for key in ("digest", "machine", "version")}
        if _SHA256.fullmatch(words["digest"]) and _SHA256.fullmatch(words["machine"]) and len(words["version"]) < 100:
            return _Told(Enrolled(id=uuid.UUID(str(told["agent"])), **words), how)
    except (ValueError, KeyError, TypeError):
        pass
    typer.echo(f"{inert(host)}: it was installed, but what the host tells of it cannot be read", err=True)
    return None
