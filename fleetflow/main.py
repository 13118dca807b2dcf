"""The command `fleetflow`: gathers the subcommands, and turns errors into one line and an exit code."""

import sys
from typing import Annotated

import typer

from fleetflow import agent, audit, configuration, database, host, hub, run, stack, task, token
from fleetflow.text import inert
from models.errors import FleetflowError

app = typer.Typer(
    name="fleetflow",
    help="Run commands on fleets of hosts as Prefect flows, and keep every host's result.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich would cost each command 0.1 s
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("up")(stack.up_command)
app.command("down")(stack.down_command)
app.command("status")(stack.status_command)
app.command("hub")(hub.hub_command)
app.add_typer(task.app, name="task")
app.add_typer(host.app, name="host")
app.add_typer(agent.app, name="agent")
app.add_typer(token.app, name="token")
app.add_typer(audit.app, name="audit")
app.add_typer(configuration.app, name="config")
app.add_typer(database.app, name="db")


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # 30 ms that no other command needs

        typer.echo(f"fleetflow {version('fleetflow')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Run commands on fleets of hosts as Prefect flows, and keep every host's result."""


def main() -> None:
    """The entry point. Typer itself sees to usage errors (2), Ctrl-C (130) and a closed pipe (1)."""
    try:
        app()
    except FleetflowError as error:
        typer.echo(f"fleetflow: {inert(str(error))}", err=True)
        sys.exit(error.exit_code)
