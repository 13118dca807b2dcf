"""`fleetflow audit`: who changed what, and whether the trail of that is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fleetflow.opened import open_access
from fleetflow.text import clock, inert
from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.audit import Audit

app = typer.Typer(help="Who changed what, when and from where.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 50,
    before: Annotated[int | None, typer.Option(help="Only entries older than this number.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the newest entries of the audit trail."""
    with _audit() as trail:
        entries = trail.entries(limit, before)
    for entry in entries:
        if as_json:
            typer.echo(json.dumps(asdict(entry)))
            continue
        words = f"{clock(entry.at)}  {inert(entry.who)} ({inert(entry.source)})  {entry.action}  {inert(entry.object)}"
        refused = f"  {entry.result}" if entry.result != "done" else ""
        typer.echo(f"{entry.id:>6}  {words}{refused}" + (f": {inert(entry.detail)}" if entry.detail else ""))


@app.command()
def verify(
    head: Annotated[
        str, typer.Option(metavar="DIGEST", help="A digest that an earlier `verify` printed, and that must still be there.")
    ] = "",
) -> None:
    """Check that no entry was changed or removed. Exit code 1 when one was.

    Keep the digest that this prints in another place: only with it is it seen when the newest entries were cut off.
    """
    with _audit() as trail:
        count, digest = trail.verify(head or None)
    typer.echo(f"{count} entries, none changed; the newest digest is {digest}")


@contextmanager
def _audit() -> "Iterator[Audit]":
    from models.audit import Audit

    with open_access(Settings.load()) as access:
        yield Audit(access)
