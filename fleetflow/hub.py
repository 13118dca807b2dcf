"""`fleetflow hub`: where the stack's hub is. It is a part of `fleetflow up`."""

import json
from typing import Annotated

import typer

from fleetflow.state import read_state
from models.address import speaks_tls
from models.settings import Settings


def hub_command(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show where the hub is that agents call. Exit code 1 when it does not run; `fleetflow up` starts it."""
    settings = Settings.load()
    state = read_state(settings.home)
    process = state.children.get("hub") if state else None
    running = state is not None and process is not None and process.is_alive()
    url = state.hub_url if state and running else None
    shown = certificate_shown(settings, url or "")
    if as_json:
        pid = process.pid if process and running else None
        typer.echo(json.dumps({"running": running, "url": url, "pid": pid, "fingerprint": shown}))
    elif process and running:
        typer.echo(f"{url} (process {process.pid})" + (f"\ncertificate {shown} (SHA-256)" if shown else ""))
    else:
        typer.echo("the hub does not run; `fleetflow up -d` starts the stack")
    if not running:
        raise typer.Exit(1)


def certificate_shown(settings: Settings, url: str) -> str | None:
    """The SHA-256 by which agents know the hub of this home at that address; None where they go by its authority, or there is no TLS."""
    if not url.startswith("https://") or not speaks_tls(settings):
        return None
    from models import tls  # a tenth of a second that plain HTTP need not wait

    return tls.fingerprint(settings)
