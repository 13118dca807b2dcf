"""`fleetflow db upgrade`: brings the database to this program's version."""

import typer

from models.settings import Settings

app = typer.Typer(help="The database.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """The database."""


@app.command()
def upgrade() -> None:
    """Create the database, or bring it to this program's version."""
    settings = Settings.load()
    from models import database  # SQLAlchemy takes a third of a second

    version = database.upgrade(settings.database)
    typer.echo(f"{settings.database_shown} is at version {version}")
