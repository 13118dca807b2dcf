from pathlib import Path

import pytest

from models.errors import SettingsError
from models.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEETFLOW_HOME", str(tmp_path))
    return tmp_path


def test_environment_wins_over_the_file_and_the_file_over_the_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "fleetflow.toml").write_text("forks = 7\nui_port = 4300\n")
    monkeypatch.setenv("FLEETFLOW_FORKS", "9")
    settings = Settings.load()
    assert (settings.forks, settings.ui_port, settings.connect_timeout) == (9, 4300, 10)


def test_everything_lives_in_the_home(home: Path) -> None:
    settings = Settings.load()
    assert settings.home == home
    assert settings.database == f"sqlite:///{home / 'fleetflow.db'}"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("forks = 0\n", "forks"),
        ("fork = 3\n", "fork"),
        ("forks = \n", "line 1"),
        ("timeout = -1\n", "timeout"),
        ("ssh_host_key = 'no'\n", "strict"),
        ("approve_pattern = 'rm ['\n", "approve_pattern: is not a regular expression"),
        ("approve_hosts = -1\n", "approve_hosts"),
        ("hub_host = 'hub.example.com'\n", "hub_host: is not an address to listen on"),
        ("hub_url = 'http://hub.example.com:80'\n", "hub_url: is not an address that agents call"),
        ("hub_url = 'hub.example.com'\n", "hub_url"),
        ("hub_tls = 'maybe'\n", "'auto', 'on' or 'off'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(home: Path, text: str, word: str) -> None:
    (home / "fleetflow.toml").write_text(text)
    with pytest.raises(SettingsError, match=word) as caught:
        Settings.load()
    assert "fleetflow.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("FLEETFLOW_FORKS", "many"), ("FLEETFLOW_FROKS", "3"), ("FLEETFLOW_CONNECT_TIMEOUT", "inf")])
def test_a_wrong_variable_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        Settings.load()


def test_secrets_are_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFLOW_SSH_PASSWORD", "canary-1")
    monkeypatch.setenv("FLEETFLOW_DATABASE_URL", "postgresql+psycopg://me:canary-2@db/fleet")
    settings = Settings.load()
    assert "canary" not in repr(settings.ssh_password) + settings.database_shown
