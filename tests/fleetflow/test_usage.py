"""Bad input: one clear line on stderr, the right exit code, and nothing half-done. No stack runs here."""

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from models import database
from tests.stacks import PROGRAM

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "hosts.yaml").write_text("hosts:\n  web[1-3]: {groups: [web]}\n  db1: {tags: {dc: ams}}\n")
    return tmp_path / "home"


def fleetflow(home: Path, *arguments: str, **environ: str) -> Done:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETFLOW_", "PREFECT_"))}
    own |= {"FLEETFLOW_HOME": str(home), "HOME": str(home.parent)} | environ
    return subprocess.run([str(PROGRAM), *arguments], env=own, capture_output=True, text=True, timeout=60, check=False)


def refused(done: Done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("target", "code", "word"),
    [
        ("web1,!@nogroup", 2, "nogroup"),
        ("", 2, "empty"),
        ("!web1", 2, "starts with !"),
        ("web[1-", 2, "bracket"),
        ("web[1-999999999]", 2, "100,000"),
        ("-oProxyCommand=x", 2, "-oProxyCommand"),
        ("root@$(reboot):22", 2, "$(reboot)"),
        ("@web,!@web", 3, "no host"),
    ],
)
def test_a_wrong_target(home: Path, target: str, code: int, word: str) -> None:
    refused(fleetflow(home, "run", "true", f"--target={target}"), code, word)
    assert not (home / "stack.json").exists(), "nothing was started for it"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--timeout", "-1"], "timeout"),
        (["--connect-timeout", "nan"], "connect_timeout"),
        (["--forks", "0"], "forks"),
        (["--identity", "/no/such/key"], "/no/such/key"),
        (["--env", "novalue"], "novalue"),
        (["--stdin", "/no/such/file"], "/no/such/file"),
        (["--become", "--become-password", "hunter2"], "secret:NAME"),
        (["--script", "/dev/null"], "script is empty"),
        (["--script", "/etc/passwd", "--interpreter", "python3"], "full path"),
        (["--interpreter", "/bin/sh"], "--interpreter is for a script"),
        (["--credentials", "No Such"], "small letters, digits and dashes"),
        (["--waves", "10%,5%"], "write ones that grow"),
        (["--max-failures", "many"], "write 5 (hosts) or 5%"),
        (["--pick", "0"], "pick 0"),
        (["--deadline", "0"], "deadline 0"),
    ],
)
def test_a_wrong_option(home: Path, arguments: list[str], word: str) -> None:
    refused(fleetflow(home, "run", "true", "-t", "web1", *arguments), 2, word)


@pytest.mark.parametrize("arguments", [["--host-key", "sometimes"], ["--no-such-option"]])
def test_what_the_command_line_itself_refuses(home: Path, arguments: list[str]) -> None:
    done = fleetflow(home, "run", "true", "-t", "web1", *arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_command(home: Path) -> None:
    refused(fleetflow(home, "run", " ", "-t", "web1"), 2, "command is empty")


def test_a_malformed_inventory_is_named_with_its_line(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts:\n  web1: {port: 22}\n  web2: {port: many}\n")
    refused(fleetflow(home, "run", "true", "-t", "web1"), 2, f"{home / 'hosts.yaml'}:3")
    (home / "hosts.yaml").write_text("hosts:\n  web1: [\n")
    refused(fleetflow(home, "run", "true", "-t", "web1"), 2, f"{home / 'hosts.yaml'}:")


def test_a_wrong_setting(home: Path) -> None:
    refused(fleetflow(home, "run", "true", "-t", "web1", FLEETFLOW_FORKS="many"), 2, "FLEETFLOW_FORKS")
    (home / "fleetflow.toml").write_text("froks = 3\n")
    refused(fleetflow(home, "config", "show"), 2, "froks")


def test_a_database_of_a_newer_version(home: Path) -> None:
    database.upgrade(f"sqlite:///{home / 'fleetflow.db'}")
    raw = sqlite3.connect(home / "fleetflow.db")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    for arguments in (["task", "list"], ["db", "upgrade"]):
        refused(fleetflow(home, *arguments), 4, "newer fleetflow")


def test_no_database_yet_is_said_in_one_line(home: Path) -> None:
    refused(fleetflow(home, "task", "list"), 4, "holds nothing yet")
    assert not (home / "fleetflow.db").exists()


def test_a_prefect_that_does_not_answer_is_exit_code_4(home: Path) -> None:
    done = fleetflow(home, "run", "true", "-t", "web1", FLEETFLOW_PREFECT_API_URL="http://127.0.0.1:9/api")
    refused(done, 4, "http://127.0.0.1:9/api")


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(fleetflow(tmp_path / "file" / "home", "up", "-d"), 4, str(tmp_path / "file"))


@pytest.mark.parametrize("settings", [{"HUB_TLS": "off"}, {"HUB_CERT": "/no/such/file"}, {"HUB_KEY": "/no/such/file"}])
def test_a_hub_that_may_not_listen_is_never_started(home: Path, settings: dict[str, str]) -> None:
    environ = {f"FLEETFLOW_{name}": value for name, value in settings.items()} | {"FLEETFLOW_HUB_HOST": "0.0.0.0"}
    refused(fleetflow(home, "up", "-d", **environ), 2, *environ.keys() - {"FLEETFLOW_HUB_HOST"})
    assert [path.name for path in home.iterdir()] == ["hosts.yaml"], "nothing was started for it"


def test_config_show_lists_every_setting_and_hides_secrets(home: Path) -> None:
    done = fleetflow(home, "config", "show", FLEETFLOW_SSH_PASSWORD="canary-0815", FLEETFLOW_FORKS="7")
    assert done.returncode == 0
    assert "canary-0815" not in done.stdout
    assert any(line.split()[:3] == ["forks", "7", "environment"] for line in done.stdout.splitlines())
