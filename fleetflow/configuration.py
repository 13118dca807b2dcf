"""`fleetflow config show`: every setting, its value, and where it comes from."""

import json
import os
import tomllib
from typing import Annotated

import typer

from models.settings import PREFIX, Settings

app = typer.Typer(help="The settings.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """The settings."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Show every setting with its value and its source; secrets stay hidden."""
    settings = Settings.load()
    file = settings.home / "fleetflow.toml"
    in_file = set(tomllib.loads(file.read_text())) if file.exists() else set()
    rows = [("home", str(settings.home), "environment" if os.environ.get("FLEETFLOW_HOME") else "default", "the folder of this stack")]
    for name, field in Settings.model_fields.items():
        source = "environment" if PREFIX + name.upper() in os.environ else "fleetflow.toml" if name in in_file else "default"
        value = settings.database_shown if name == "database_url" else getattr(settings, name)
        rows.append((name, "" if value is None else str(value), source, field.description or ""))
    for name, value, source, description in rows:
        if as_json:
            typer.echo(json.dumps({"name": name, "value": value, "source": source, "description": description}))
        else:
            typer.echo(f"{name:18} {value or '-':40} {source:15} {description}")
