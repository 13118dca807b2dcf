"""`fleetflow host`: what hosts are known, and which are to be."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fleetflow.formats import Format
from fleetflow.text import inert
from models.errors import UsageError
from models.values import ExecutorKind, Host, HostKeyPolicy

app = typer.Typer(no_args_is_help=True, help="List, add, remove and import hosts.")


@app.command("list")
def list_(
    target: Annotated[str, typer.Argument(help="Which hosts, such as 'web[1-9],@db'; default: all that are known.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show hosts as a command would reach them."""
    from models.inventory import Inventory
    from models.settings import Settings
    from models.targets import resolve

    settings = Settings.load()
    inventory = Inventory.load(settings.home, settings.ssh_config.expanduser())
    hosts = resolve(target, inventory) if target else inventory.known()
    rows = [_row(host, inventory.source(host.name)) for host in hosts]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
    else:
        _show_table(rows)


@app.command()
def add(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ranges, such as 'web[01-20]'.")],
    address: Annotated[str | None, typer.Option(help="What to connect to; may hold {name}.")] = None,
    user: Annotated[str | None, typer.Option(help="User to log in as over SSH.")] = None,
    port: Annotated[int | None, typer.Option(help="SSH port.")] = None,
    executor: Annotated[ExecutorKind | None, typer.Option(help="How commands reach the host.")] = None,
    jump: Annotated[str | None, typer.Option(help="Jump hosts, as ProxyJump spells them.")] = None,
    identity: Annotated[str | None, typer.Option(help="SSH private key to offer first.")] = None,
    host_key: Annotated[HostKeyPolicy | None, typer.Option(help="What is done with an unknown host key.")] = None,
    credentials: Annotated[str | None, typer.Option(help="Prefect block of SSH credentials to log in with.")] = None,
    groups: Annotated[list[str] | None, typer.Option("--group", help="Group the host is in; may be given again.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Tag; may be given again.")] = None,
) -> None:
    """Add hosts to the inventory, in hosts.d/added.yaml."""
    from fleetflow.opened import recorded
    from models import additions, hostsfile
    from models.settings import Settings

    said = {
        "address": address,
        "user": user,
        "port": port,
        "executor": executor,
        "jump": jump,
        "identity": identity,
        "host_key": host_key,
        "credentials": credentials,
        "groups": groups or None,
        "tags": _read_tags(tags) or None,
    }
    entry = hostsfile.entry({key: value for key, value in said.items() if value is not None})
    entries = {_check_names(name): entry for name in names}
    settings = Settings.load()
    path = additions.add(settings.home, "added.yaml", entries, record=recorded(settings, "host.add", ",".join(names)))
    typer.echo(f"added {', '.join(names)} to {path}")


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ranges, such as 'web[01-20]'.")],
) -> None:
    """Remove hosts that were added or imported."""
    from fleetflow.opened import recorded
    from models import additions
    from models.ranges import expand, fold, split
    from models.settings import Settings

    gone = [name for text in names for part in split(_check_names(text)) for name in expand(part)]
    settings = Settings.load()
    files = additions.remove(settings.home, gone, record=recorded(settings, "host.remove", fold(gone)))
    typer.echo(f"removed {fold(gone)} from {', '.join(map(str, files))}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="ssh config, /etc/hosts, Ansible INI inventory, or a list of names.")],
    format_: Annotated[Format, typer.Option("--format", help="What FILE is.")] = Format.GUESS,
    groups: Annotated[list[str] | None, typer.Option("--group", help="Group for all of them; may be given again.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Forget what a FILE of this name brought before.")] = False,
) -> None:
    """Import hosts from FILE into hosts.d, all of them or none."""
    from fleetflow import hostlists
    from fleetflow.opened import recorded
    from models import additions
    from models.settings import Settings

    settings = Settings.load()
    kept = settings.home / "hosts.d" / hostlists.file_name(file)
    if kept.exists() and not replace:
        raise UsageError(f"{kept} is there from an earlier import of {file.name}; --replace imports it again")
    found = hostlists.read(file, format_, groups or ())
    if not found.hosts:
        raise UsageError(f"{file}: there is no host in it (read as {found.format})")
    what = f"{len(found.hosts)} hosts of {file}" + (", in place of an earlier import" if replace else "")
    record = recorded(settings, "host.import", found.label, what)
    path = additions.add(settings.home, kept.name, found.entries(), replace=replace, record=record)
    typer.echo(f"added {found.label} to {path} ({len(found.hosts)} hosts, read as {found.format})")
    for line in found.left_out:
        typer.echo(f"left out: {line}", err=True)


def _read_tags(tags: Sequence[str] | None) -> dict[str, str]:
    pairs = [tag.partition("=") for tag in tags or ()]
    for key, equals, value in pairs:
        if not equals:
            raise UsageError(f"--tag {key!r}: write key=value")
        if [other for other, _, _ in pairs].count(key) > 1:
            raise UsageError(f"--tag {key}={value}: {key!r} is given twice")
    return {key: value for key, _, value in pairs}


def _check_names(text: str) -> str:
    """The names or ranges as they are; raises `UsageError` for what could be no host of an inventory."""
    from models.names import HOST
    from models.ranges import RangeError, expand, split

    try:
        bad = [name for part in split(text) for name in expand(part) if not HOST.fullmatch(name)]
    except RangeError as error:
        raise UsageError(f"host {text[:60]!r}: {error}") from None
    if bad:
        raise UsageError(f"{bad[0][:60]!r} is not a host name; letters, digits, '.', '_' and '-' may stand there")
    return text


def _row(host: Host, source: str) -> dict[str, object]:
    return {
        "name": host.name,
        "address": host.address,
        "executor": host.executor,
        "user": host.user,
        "port": host.port,
        "jump": host.jump,
        "identity": str(host.identity) if host.identity else None,
        "host_key": host.host_key,
        "credentials": host.credentials,
        "groups": sorted(host.groups),
        "tags": dict(host.tags),
        "source": source,
    }


def _show_table(rows: Sequence[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # no line breaks where another program reads
    columns = [key for key in rows[0] if any(row[key] for row in rows)]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(row[column])) for column in columns))
    console.print(table)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{key}={word}" for key, word in sorted(value.items())]
    return inert(",".join(value) if isinstance(value, list) else str(value or ""))
