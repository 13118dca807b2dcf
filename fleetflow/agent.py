"""`fleetflow agent`: which agents may join, and what they may do."""

import hashlib
import json
import shlex
import time
from typing import TYPE_CHECKING, Annotated

import typer

from fleetflow.enrolment import PROGRAM, hub_url, open_agents, ring
from fleetflow.hub import certificate_shown
from fleetflow.install import install, remove
from fleetflow.spans import read_time
from fleetflow.text import clock, inert
from fleetflow.who import me
from models.errors import UsageError
from models.presence import presence
from models.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second
    from models.agents import Agent

app = typer.Typer(
    help="Hosts that call home: the tokens they join with, and what they may do.", no_args_is_help=True, rich_markup_mode=None
)

app.command()(install)
app.command()(remove)

_Expires = Annotated[str, typer.Option(metavar="TIME", help="How long the token is good: 90s, 30m, 1h or 7d.")]
_Uses = Annotated[int, typer.Option(min=1, help="How many agents may join with it.")]
_Approve = Annotated[bool, typer.Option("--approve", help="Agents that join with it need nobody's approval.")]
_Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of agents, or ranges such as 'web[01-20]'.")]


@app.command()
def token(expires: _Expires = "1h", uses: _Uses = 1, approve: _Approve = False) -> None:
    """Make a join token, and print it: it is stored nowhere in clear."""
    settings = Settings.load()
    with open_agents(settings) as agents:
        typer.echo(agents.make_token(seconds=read_time(expires), uses=uses, approves=approve, by=me()))


@app.command()
def join(
    expires: _Expires = "1h",
    uses: _Uses = 1,
    approve: _Approve = False,
    hub: Annotated[str, typer.Option(help="URL of the hub as hosts reach it; default: that of the local stack.")] = "",
) -> None:
    """Make a join token, and print what to run on a host."""
    settings = Settings.load()
    url = hub_url(settings, hub)
    fingerprint = certificate_shown(settings, url)
    pinned = f" --fingerprint {fingerprint}" if fingerprint else ""
    checksum = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    with open_agents(settings) as agents:
        made = agents.make_token(seconds=read_time(expires), uses=uses, approves=approve, by=me())
    typer.echo(f"copy {PROGRAM} to the host as fleetflow-agent.py, and run there:\n")
    typer.echo(f"  echo '{checksum}  fleetflow-agent.py' | sha256sum --check")
    typer.echo(f"  python3 fleetflow-agent.py join --hub {shlex.quote(url)}{pinned} --token {made}")
    typer.echo("  python3 fleetflow-agent.py run")
    if not approve:
        typer.echo("\nthen approve it here: fleetflow agent approve NAME")


@app.command("list")
def list_(
    state: Annotated[
        str, typer.Option(help="Only those that are pending, approved, rejected or revoked; default: pending and approved.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show agents, by name, and since when they are there or were last heard of."""
    from models.states import AgentState

    if state and state not in set(AgentState):
        raise UsageError(f"--state {state}: give one of {', '.join(AgentState)}")
    wanted = [AgentState(state)] if state else [AgentState.PENDING, AgentState.APPROVED]
    with open_agents(Settings.load()) as agents:
        everybody = agents.all()
    names = {agent.id: agent.name for agent in everybody}
    now = time.time()
    for agent in everybody:
        if agent.state in wanted:
            original = names.get(agent.copy_of) if agent.copy_of and agent.generation == 1 else None  # then its credential is its own
            typer.echo(json.dumps(_row(agent, original, now)) if as_json else _line(agent, original, now))


@app.command()
def approve(names: _Names) -> None:
    """Let agents take commands; from then on they are hosts of the inventory by their names."""
    from models.enlisting import enlist
    from models.states import AgentState

    settings = Settings.load()
    decided = _decide(settings, names, AgentState.APPROVED)
    for name, place in enlist(settings.home, decided, settings.ssh_config.expanduser()).items():
        typer.echo(f"host {name} is reached otherwise ({place}); `--executor agent` takes its agent", err=True)
    typer.echo(f"approved {inert(', '.join(decided))}")


@app.command()
def reject(names: _Names) -> None:
    """Turn agents away that wait for approval. The name is free again."""
    from models.states import AgentState

    typer.echo(f"rejected {inert(', '.join(_decide(Settings.load(), names, AgentState.REJECTED)))}")


@app.command()
def revoke(names: _Names) -> None:
    """Shut agents out, at once and for good. What they run ends `lost`; the name is free again."""
    from models.states import AgentState

    revoked = _decide(Settings.load(), names, AgentState.REVOKED)
    typer.echo(f"revoked {inert(', '.join(revoked))}; `fleetflow host remove` forgets the hosts")


@app.command()
def rotate(names: _Names) -> None:
    """Have agents take new credentials. Each makes its own at its next call; the old one is good until the new one was used."""
    settings = Settings.load()
    found = _expand(names)
    with open_agents(settings) as agents:
        agents.rotate(found, me())
    ring(settings)
    typer.echo(f"new credentials for {inert(', '.join(sorted(found)))}")


def _decide(settings: Settings, texts: list[str], state: str) -> list[str]:
    from models.states import AgentState

    with open_agents(settings) as agents:
        decided = agents.decide(_expand(texts), AgentState(state), me())
    ring(settings)
    return sorted(agent.name for agent in decided)


def _expand(texts: list[str]) -> list[str]:
    from models.ranges import RangeError, expand, split

    try:
        return [name for text in texts for part in split(text) for name in expand(part)]
    except RangeError as error:
        raise UsageError(str(error)) from None


def _since(agent: "Agent", now: float) -> float | None:
    """Since when it is there, or was last heard of."""
    return agent.turned_at if agent.is_online and presence(agent.seen_at, now) == "online" else agent.seen_at


def _row(agent: "Agent", original: str | None, now: float) -> dict[str, object]:
    return {
        "name": agent.name,
        "id": str(agent.id),
        "state": agent.state,
        "presence": presence(agent.seen_at, now),
        "since": _since(agent, now),
        "seen_at": agent.seen_at,
        "joined_at": agent.joined_at,
        "decided_by": agent.decided_by,
        "copy_of": original,
        "generation": agent.generation,
        "version": agent.version,
        "facts": dict(agent.facts),
        "telemetry": dict(agent.telemetry),
    }


def _line(agent: "Agent", original: str | None, now: float) -> str:
    since = clock(_since(agent, now)) or ""
    note = f"a copy of {inert(original)}" if original else ""
    version = inert(agent.version or "")
    return f"{inert(agent.name):24}  {agent.state:9}  {presence(agent.seen_at, now):10}  {since:25}  {version:8}  {note}".rstrip()
