"""What a host allows its agent to run, whatever the hub says."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.agent.agents import Agent, enrolled
from tests.executors.agent.hub import Hub, serve

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent whose host has a policy."""
    hub, folder = Hub(), tmp_path_factory.mktemp("agent")
    folder.chmod(0o755)
    with serve(hub) as address, enrolled(folder, hub, address) as agent:
        yield agent.start("--policy", str(folder / "policy"))


def write(host: Agent, text: str) -> Path:
    path = host.state.parent / "policy"
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def refusal(host: Agent, script: str, **options: object) -> str:
    """Why the host refuses a command; empty where it runs."""
    told = host.hub.wait_for(host.hub.command(script, **options), "done", "refused")
    assert (told.done is None) == bool(told.reason)
    return told.reason


RULES = rf"""# what the people of this host have decided
forbid *       \brm\b
env            GREETING  LANG

allow {ME}     echo [a-z ]+
allow nobody   true
allow *        /bin/cat -\ncat(\n-n)?
"""


@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        ("echo hello\n", {}, ""),
        ("echo hello", {"env": {"GREETING": "x"}}, ""),
        ("echo hello", {"env": {"GREETING": "x", "LD_PRELOAD": "x"}}, "does not let a command bring LD_PRELOAD"),
        ("echo hello; id", {}, f"allows no such command for {ME}"),
        ("echo hello\nid", {}, f"allows no such command for {ME}"),
        ("echo rm", {}, "forbids it (line 2)"),
        ("true", {}, f"allows no such command for {ME}"),
        ("true", {"become": "nobody"}, None),
        ("true", {"become": "#0"}, "allows no such command for root"),
        ("true", {"become": "no-such-user"}, "no-such-user is no user here"),
        ("cat", {"interpreter": ["/bin/cat", "-"]}, ""),
        ("cat", {"interpreter": ["/bin/cat", "-"], "arguments": ["-n", "/etc/shadow"]}, f"allows no such command for {ME}"),
    ],
)
def test_the_first_rule_that_fits_decides_and_what_none_allows_is_refused(
    host: Agent, script: str, options: dict[str, object], reason: str | None
) -> None:
    write(host, RULES)
    said = refusal(host, script, **options)
    if reason is None:  # allowed: whether sudo lets it through is another matter
        assert "policy" not in said
    else:
        assert (reason in said, bool(said)) == (True, bool(reason)), said


def _others_may_write(path: Path) -> None:
    path.chmod(0o664)


def _is_no_rule(path: Path) -> None:
    path.write_text("allow *\n")


def _is_no_pattern(path: Path) -> None:
    path.write_text("allow * .*\nforbid * (\n")


def _is_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _is_another_users(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("spoil", [_others_may_write, _is_no_rule, _is_no_pattern, _is_a_link, _is_another_users, Path.unlink])
def test_while_the_policy_cannot_be_trusted_nothing_runs(host: Agent, spoil: object) -> None:
    path = write(host, "allow * .*\n")
    assert refusal(host, "true") == ""
    assert callable(spoil)
    spoil(path)
    assert f"the host's policy {path} cannot be used, so nothing may run: " in refusal(host, "true")


def test_without_a_policy_everything_may_run(shared: Agent) -> None:
    assert not (shared.state / "policy").exists()
    assert refusal(shared, "rm -f /no/where", env={"ANY": "x"}) == ""
