"""`fleetflow hub`: where the stack's hub is. It is a part of `fleetflow up`."""

import json
from typing import Annotated

import typer

from fleetflow.state import read_state
from models.settings import Settings


def hub_command(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show where the hub is that agents call. Exit code 1 when it does not run; `fleetflow up` starts it."""
    settings = Settings.load()
    state = read_state(settings.home)
    process = state.children.get("hub") if state else None
    running = state is not None and process is not None and process.is_alive()
    url = state.hub_url if state and running else None
    if as_json:
        typer.echo(json.dumps({"running": running, "url": url, "pid": process.pid if process and running else None}))
    else:
        typer.echo(f"{url} (process {process.pid})" if process and running else "the hub does not run; `fleetflow up -d` starts the stack")
    if not running:
        raise typer.Exit(1)
