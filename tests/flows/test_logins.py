"""What becomes of credentials between Prefect and the executors; test_credentials.py has the blocks themselves."""

import asyncio
from pathlib import Path

import pytest

from flows.logins import reveal
from flows.request import Options, Request
from models.credentials import Credentials
from models.policy import Policy
from models.settings import Settings
from models.values import Command, Host


async def test_what_has_been_read_is_not_asked_for_again_and_jumps_count_as_the_inventory_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFLOW_HOME", str(tmp_path))
    (tmp_path / "hosts.yaml").write_text("hosts:\n  gate: {address: 203.0.113.7, user: hop}\n  web1:\n")
    request = Request(
        name="test",
        command=Command(script="true"),
        target="web1",
        hosts=(Host(name="web1", credentials="fleet"),),
        connect_timeout=5,
        policy=Policy(),
        login=Credentials(name="fleet", user="ops", password="x", jump="gate,elsewhere"),
        reach=Options(credentials="fleet"),
    )
    async with asyncio.timeout(5):  # there is no Prefect here
        (host,) = (await reveal(request, Settings())).hosts
    assert isinstance(host.login, Credentials)
    assert (host.user, host.login.jump) == ("ops", "hop@203.0.113.7,elsewhere")
