"""What the commands about agents share: the agents in the database, and where their hub is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from fleetflow.opened import open_access
from fleetflow.state import read_state
from models.errors import UnavailableError, UsageError
from models.settings import Settings, Url

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.agents import Agents

PROGRAM = Path(__file__).parent.parent / "executors" / "agent" / "program.py"


@contextmanager
def open_agents(settings: Settings) -> "Iterator[Agents]":
    """The agents of our database."""
    from models.agents import Agents

    with open_access(settings) as access:
        yield Agents(access)


def ring(settings: Settings) -> None:
    """Let the hubs of this machine look at once."""
    from models import bells

    bells.ring(settings.home, bells.Kind.HUB)


def hub_url(settings: Settings, given: str = "") -> str:
    """Where agents reach the hub: as it is given, or where that of the local stack listens. Raises `UsageError` and `UnavailableError`."""
    if given:
        try:
            return TypeAdapter(Url).validate_python(given)
        except ValidationError:
            raise UsageError(f"--hub {given} is not an address that agents call: write https://HOST:PORT") from None
    state = read_state(settings.home)
    if state is None or not state.is_running or not state.hub_url:
        raise UnavailableError("the local stack", f"does not run in {settings.home}; `fleetflow up -d` starts it, or give --hub URL")
    return state.hub_url
