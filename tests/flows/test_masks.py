"""Which values are masked in what a host prints."""

import pytest
from pydantic import SecretStr

from flows.masks import values
from models.credentials import Credentials
from models.secrets import Revealed
from models.settings import Settings
from models.values import Command, ExecutorKind, Host

SETTINGS = Settings(ssh_password=SecretStr("of-ssh"), ssh_passphrase=SecretStr("of-key"), become_password=SecretStr("of-sudo"))
BLOCK = Credentials(name="fleet", password="of-block", passphrase="of-its-key")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (Host(name="web1"), {"of-ssh", "of-key"}),
        (Host(name="web1", executor=ExecutorKind.SSH, login=BLOCK), {"of-block", "of-its-key"}),
        (Host(name="web1", executor=ExecutorKind.AGENT), set()),
        (Host(name="web1", executor=ExecutorKind.LOCAL), set()),
        (None, set()),
    ],
)
def test_what_logs_in_on_a_host_is_masked_there(host: Host | None, expected: set[str]) -> None:
    assert set(values(SETTINGS, Command(script="true"), host)) == expected


def test_so_is_the_password_of_sudo_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFLOW_SECRET_ROOT", "of-root")
    env = {"KEY": Revealed("of-env"), "PLAIN": "shown"}
    assert values(Settings(), Command(script="true", env=env), None) == ["of-env"]
    assert values(SETTINGS, Command(script="true", become="root"), None) == ["of-sudo"]
    assert values(SETTINGS, Command(script="true", become="root", become_password="secret:ROOT"), None) == ["of-root"]
    assert values(SETTINGS, Command(script="true", become="root", become_password="secret:NONE"), None) == []
