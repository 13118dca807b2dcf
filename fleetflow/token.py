"""`fleetflow token`: who may use the REST API and the hub's pages."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fleetflow.opened import open_access
from fleetflow.spans import read_time
from fleetflow.text import clock, inert
from fleetflow.who import me
from models.errors import UsageError
from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.tokens import Token, Tokens

app = typer.Typer(help="Who may use the REST API and the hub's pages.", no_args_is_help=True, rich_markup_mode=None)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="What the audit trail calls its holder.")]


@app.command()
def create(
    name: _Name,
    role: Annotated[
        str, typer.Option(help="viewer sees everything; operator also runs, cancels and retries; admin also decides about agents.")
    ] = "viewer",
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long it is good: 12h, 90d; default: until it is revoked.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="Scope: the only hosts that it may run on. Needs --command.")] = "",
    command: Annotated[str, typer.Option(help="Scope: the only command that it may run, as for a webhook. Needs --target.")] = "",
) -> None:
    """Make a token, and print it: it is stored nowhere in clear."""
    from models.tokens import Role, Scope

    if role not in set(Role):
        raise UsageError(f"--role {role}: give one of {', '.join(Role)}")
    if bool(target) != bool(command):
        raise UsageError("a scope needs both --target and --command")
    scope = Scope(target, command) if target else None
    if scope:
        _check_target(target)
    with _tokens() as tokens:
        typer.echo(tokens.create(name, Role(role), me(), seconds=read_time(expires) if expires else None, scope=scope))


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Those that are revoked or expired, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the tokens, by name; never what they are."""
    now = time.time()
    with _tokens() as tokens:
        found = [token for token in tokens.all() if everything or token.is_good(now)]
    for token in found:
        typer.echo(json.dumps(_row(token, now)) if as_json else _line(token, now))


@app.command()
def revoke(name: _Name) -> None:
    """End a token at once and for good."""
    with _tokens() as tokens:
        tokens.revoke(name, me())
    typer.echo(f"revoked {inert(name)}")


def _check_target(target: str) -> None:
    from models.targets import check_syntax

    check_syntax(target)


@contextmanager
def _tokens() -> "Iterator[Tokens]":
    from models.tokens import Tokens

    with open_access(Settings.load()) as access:
        yield Tokens(access)


def _state(token: "Token", now: float) -> str:
    return "good" if token.is_good(now) else "revoked" if token.revoked_at is not None else "expired"


def _row(token: "Token", now: float) -> dict[str, object]:
    return {
        "name": token.name,
        "role": token.role,
        "state": _state(token, now),
        "target": token.scope and token.scope.target,
        "command": token.scope and token.scope.command,
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
    }


def _line(token: "Token", now: float) -> str:
    scope = f"only {inert(json.dumps(token.scope.command))} on {inert(token.scope.target)}" if token.scope else ""
    ends = f"until {clock(token.expires_at)}" if token.expires_at else ""
    return f"{inert(token.name):24}  {token.role:8}  {_state(token, now):7}  by {inert(token.created_by)}  {ends}  {scope}".rstrip()
