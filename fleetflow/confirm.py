"""Asks on a terminal before a run over many hosts: typing their number shows that it was read."""

import sys

import typer

from models.errors import UsageError


def confirm(hosts: int, limit: int) -> None:
    """Ask to type the number of hosts when it is over `limit` and people sit at both ends; raises `UsageError` for anything else."""
    if hosts <= limit or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    typer.echo(f"This runs on {hosts} hosts. Type {hosts} to go on (--yes skips this): ", err=True, nl=False)
    typed = sys.stdin.readline()
    if typed.strip() != str(hosts):
        raise UsageError(f"not confirmed: {hosts} was to be typed; nothing was started")
