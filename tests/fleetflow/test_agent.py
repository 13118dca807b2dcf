"""`fleetflow agent` at the desk: no stack runs here."""

import json
from pathlib import Path

import pytest

from models import database
from models.access import Access
from models.agents import Agents
from tests.fleetflow.test_usage import fleetflow, refused


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    database.upgrade(f"sqlite:///{home / 'fleetflow.db'}")
    return home


def enrol(home: Path, name: str, token: str) -> str:
    access = Access.open(f"sqlite:///{home / 'fleetflow.db'}")
    try:
        return Agents(access).join(token, name=name, machine=name, version="1", facts={}).state
    finally:
        access.close()


def rows(home: Path, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in fleetflow(home, "agent", "list", "--json", *arguments).stdout.splitlines()]


def test_from_a_token_to_a_host_of_the_inventory_and_out_again(home: Path) -> None:
    token = fleetflow(home, "agent", "token", "--uses", "3").stdout.strip()
    assert token.encode() not in (home / "fleetflow.db").read_bytes()
    assert [enrol(home, name, token) for name in ("web1", "web2", "web3")] == ["pending"] * 3
    assert fleetflow(home, "agent", "approve", "web[1-2]").stdout == "approved web1, web2\n"
    assert fleetflow(home, "agent", "reject", "web3").returncode == 0
    hosts = [json.loads(line) for line in fleetflow(home, "host", "list", "--json", "web*").stdout.splitlines()]
    assert [(host["name"], host["executor"]) for host in hosts] == [("web1", "agent"), ("web2", "agent")]
    assert fleetflow(home, "agent", "revoke", "web2").stdout.startswith("revoked web2;")
    assert [(row["name"], row["state"], row["presence"]) for row in rows(home)] == [("web1", "approved", "never seen")]
    assert [row["name"] for row in rows(home, "--state", "revoked")] == ["web2"]


def test_a_host_that_is_reached_otherwise_stays_so_and_that_is_said(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts:\n  web1:\n")
    enrol(home, "web1", fleetflow(home, "agent", "token").stdout.strip())
    assert "hosts.yaml:2" in fleetflow(home, "agent", "approve", "web1").stderr


def test_what_is_wrong_is_said_in_one_line(home: Path) -> None:
    refused(fleetflow(home, "agent", "token", "--expires", "soon"), 2, "--expires 'soon'")
    refused(fleetflow(home, "agent", "token", "--expires", "0h"), 2, "--expires")
    refused(fleetflow(home, "agent", "list", "--state", "odd"), 2, "pending")
    refused(fleetflow(home, "agent", "approve", "nobody"), 2, "no agent nobody", "fleetflow agent list")
    refused(fleetflow(home, "agent", "approve", "web[1-"), 2)
    refused(fleetflow(home, "agent", "join"), 4, "does not run")
    for url in ("ftp://hub", "http://10.0.0.1:9", "hub:8080"):
        refused(fleetflow(home, "agent", "join", "--hub", url), 2, f"--hub {url} is not an address that agents call")
    enrol(home, "web1", fleetflow(home, "agent", "token", "--approve").stdout.strip())
    refused(fleetflow(home, "agent", "approve", "web1"), 2, "is approved")
