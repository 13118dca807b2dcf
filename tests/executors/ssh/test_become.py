"""sudo, from a login that is not root: who it lets in, what it says else, and that everything ends as the other user."""

import asyncio
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from executors.lifeline import LOCAL_ARGV, Session
from executors.ssh.executor import Ssh
from models.errors import UnreachableError
from models.values import Attempt, Command, Stream
from tests.executors.contract import Runner, command_lines, until
from tests.executors.processes import is_alive, marked
from tests.executors.sinks import Collector
from tests.executors.ssh.warm import client
from tests.servers.accounts import Accounts, run_accounts
from tests.stacks import marked as marked_by
from tests.until import until as wait_until

_FREE = "USER ALL=(ALL) NOPASSWD: ALL"
_ASKING = "USER ALL=(ALL) ALL"
_SECRET = "FLEETFLOW_SECRET_SUDO"


@pytest.fixture(scope="module")
def accounts() -> Iterator[Accounts]:
    with run_accounts() as made:
        yield made


@pytest.fixture
async def run(accounts: Accounts):
    ssh = Ssh(accounts.sshd.settings(grace=1))
    yield Runner(ssh, accounts.sshd.host(user=accounts.login))
    await ssh.aclose()


async def _refusal(run: Runner, **command: object) -> str:
    sink = Collector()
    with pytest.raises(UnreachableError) as caught:
        async with asyncio.timeout(20):
            await run("touch /tmp/$FLEETFLOW_ATTEMPT; echo ran", sink=sink, **({"become": "root"} | command))
    assert not sink.has_started
    assert (sink.stdout, sink.stderr) == (b"", b"")
    assert not Path(f"/tmp/{run.attempt.id}").exists()
    return caught.value.reason


async def test_root_without_a_password(run: Runner, accounts: Accounts) -> None:
    accounts.allow(_FREE)
    assert await run("id -un; echo $HOME; pwd; cat; exit 3", become="root", stdin=b"in\0put") == (3, b"root\n/root\n/root\nin\0put", b"")


async def test_the_login_user_without_become(run: Runner, accounts: Accounts) -> None:
    assert await run("id -un; umask", umask="027") == (0, f"{accounts.login}\n0027\n".encode(), b"")


@pytest.mark.parametrize("user", ["root", "third"])
async def test_with_a_password(run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    accounts.allow(_ASKING, "Defaults:USER lecture=always")
    monkeypatch.setenv(_SECRET, accounts.password)
    name = accounts.third if user == "third" else user
    answer = await run("id -un; pwd; umask; cat", become=name, become_password="secret:SUDO", stdin=b"x" * 5000, umask="007")
    assert answer == (0, f"{name}\n{Path(f'~{name}').expanduser()}\n0007\n".encode() + b"x" * 5000, b"")


async def test_the_password_of_the_settings(accounts: Accounts) -> None:
    accounts.allow(_ASKING)
    ssh = Ssh(accounts.sshd.settings(become_password=accounts.password))
    assert (await Runner(ssh, accounts.sshd.host(user=accounts.login))("id -u", become="root"))[1] == b"0\n"
    await ssh.aclose()


async def test_a_password_that_sudo_does_not_ask_for_goes_nowhere(run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.allow(_FREE)
    monkeypatch.setenv(_SECRET, accounts.password)
    stdin = bytes(range(256)) * 100
    assert await run("cat", become=accounts.third, become_password="secret:SUDO", stdin=stdin) == (0, stdin, b"")
    assert await run("cat", become=accounts.third, become_password="secret:SUDO") == (0, b"", b"")


async def test_a_password_that_sudo_remembers_is_read_by_nobody_else(
    run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.allow(_ASKING, "Defaults:USER timestamp_type=global")
    monkeypatch.setenv(_SECRET, accounts.password)
    assert "password is required" in await _refusal(run)
    assert (await run("cat", become="root", become_password="secret:SUDO"))[1] == b""
    assert "password is required" in await _refusal(run), "sudo must not remember what we told it"
    assert (await run("sudo -S -p '' -v", stdin=f"{accounts.password}\n".encode()))[0] == 0
    assert (await run("id -u; cat", become="root"))[1] == b"0\n"
    assert (await run("id -u; cat", become="root", become_password="secret:SUDO"))[1] == b"0\n"
    await run("sudo -K")


async def test_the_password_is_in_no_argument_list_and_no_environment(
    run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accounts.allow(_ASKING)
    ssh = Ssh(accounts.sshd.settings(become_password=accounts.password))
    run = Runner(ssh, run.host)
    found: set[Path] = set()
    script = f"env; tr '\\0' '\\n' </proc/self/environ; touch {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    async with run.background(script, sink := Collector(), become="root") as task:
        while not (tmp_path / "up").exists():
            found |= _holding(accounts.password.encode())
            await asyncio.sleep(0)
        found |= _holding(accounts.password.encode())
        (tmp_path / "go").touch()
        assert (await task).exit_code == 0
    await ssh.aclose()
    assert found == set()
    assert accounts.password.encode() not in sink.stdout + sink.stderr


def _holding(word: bytes) -> set[Path]:
    found = set()
    for kind in ("cmdline", "environ"):
        for path in Path("/proc").glob(f"[0-9]*/{kind}"):
            try:
                if word in path.read_bytes():
                    found.add(path)
            except OSError:
                continue
    return found


async def test_a_wrong_password_is_one_failed_attempt(run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    log = accounts.sshd.folder / "sudo.log"
    accounts.allow(_ASKING, f"Defaults:USER logfile={log}", "Defaults:USER passwd_tries=5")
    monkeypatch.setenv(_SECRET, "wrong-canary")
    assert await _refusal(run, become_password="secret:SUDO") == "sudo refuses: the password is wrong (it asked again)"
    await until(lambda: log.exists() and "attempt" in log.read_text())
    assert "1 incorrect password attempt" in log.read_text()


async def test_sudo_says_why_it_refuses(run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_SECRET, accounts.password)
    accounts.allow(_ASKING)
    assert await _refusal(run) == "sudo refuses: a password is required; no become password is set"
    accounts.allow("# nothing")
    assert "not in the sudoers file" in await _refusal(run, become_password="secret:SUDO")
    accounts.allow("USER ALL=(nobody) ALL")
    assert "not allowed to execute" in await _refusal(run, become_password="secret:SUDO")
    accounts.allow(_FREE, "Defaults:USER requiretty")
    assert await _refusal(run) == "sudo refuses: sorry, you must have a tty to run sudo"
    accounts.allow(_FREE)
    assert await _refusal(run, become="no-such-user") == "sudo refuses: unknown user no-such-user"
    assert "FLEETFLOW_SECRET_NOWHERE" in await _refusal(run, become_password="secret:NOWHERE")
    assert "nowhere" in await _refusal(run, cwd="/nowhere")


def test_a_host_without_sudo() -> None:
    session = Session(Attempt(id=uuid.uuid4()), Command(script="true", become="root"), env={}, grace=1, beat_timeout=30)
    done = subprocess.run(LOCAL_ARGV, input=session.payload, capture_output=True, env={"PATH": "/nowhere"}, timeout=10, check=False)
    session.feed(Stream.STDERR, done.stderr)
    assert session.refusal == "sudo is not installed there, or not in the PATH of the login"


_TREE = """
(setsid sh -c 'trap "" TERM HUP; echo $$ >>"$PIDS"; while :; do sleep 1; done' &)
sh -c 'sleep 1000 & echo $! >>"$PIDS"; wait' &
sleep 1000 & kill -STOP $!; echo $! >>"$PIDS"
trap '' TERM; echo $$ >>"$PIDS"; while :; do sleep 1; done"""


@pytest.mark.parametrize(
    ("user", "rules"), [("root", [_FREE]), ("third", [_ASKING]), ("third", [_FREE, "Defaults:USER use_pty, log_output, log_input"])]
)
async def test_a_cancel_ends_the_tree_of_the_other_user(
    run: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, user: str, rules: list[str]
) -> None:
    accounts.allow(*rules, f"Defaults:USER iolog_dir={accounts.sshd.folder}/io")
    monkeypatch.setenv(_SECRET, accounts.password)
    pids = accounts.sshd.folder / uuid.uuid4().hex
    pids.touch()
    pids.chmod(0o666)
    name = accounts.third if user == "third" else user
    before = _calls_of_sudo(name)
    async with run.background(_TREE, env={"PIDS": str(pids)}, become=name, become_password="secret:SUDO", stdin=b"x" * 5000) as task:
        await until(lambda: len(pids.read_text().split()) == 4)
        owner = Path(f"/proc/{pids.read_text().split()[0]}").stat().st_uid
        assert (owner == 0) == (user == "root")
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 5
    assert not [pid for pid in pids.read_text().split() if is_alive(int(pid))]
    assert not marked(run.attempt)
    await until(lambda: _calls_of_sudo(name) <= before)


def _calls_of_sudo(user: str) -> set[bytes]:
    """The sudos that become this user, stopped ones too."""
    call = b"\0-u\0%s\0--\0/bin/sh\0-c\0echo fleetflow-" % user.encode()
    return {line for line in command_lines() if line.startswith(b"sudo\0") and call in line}


async def test_output_under_a_pseudo_terminal_and_a_log_is_exact(run: Runner, accounts: Accounts) -> None:
    accounts.allow(_FREE, "Defaults:USER use_pty, log_output, log_input", f"Defaults:USER iolog_dir={accounts.sshd.folder}/io")
    stdin = bytes(range(256)) * 400
    code, stdout, stderr = await run("cat; echo err >&2; exit 4", become=accounts.third, stdin=stdin)
    assert (code, stdout, stderr) == (4, stdin, b"err\n")


async def test_the_loss_of_the_connection_ends_the_tree_of_the_other_user(run: Runner, accounts: Accounts) -> None:
    accounts.allow(_FREE)
    async with run.background("trap '' TERM; setsid sleep 1000 & echo; sleep 1000", sink := Collector(), become=accounts.third):
        await until(lambda: sink.stdout)
        for pid in accounts.sshd.sessions():
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():  # it has the connection
                os.kill(int(child), signal.SIGKILL)
        await until(lambda: not marked(run.attempt))


def test_silence_ends_a_later_run_of_the_login_user(accounts: Accounts) -> None:
    with client(accounts.sshd, accounts.login, 1) as (process, word):
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not marked_by(word), 15, "the end of the command")


async def test_kill_9_of_the_group_does_not_hang_sudo(run: Runner, accounts: Accounts) -> None:
    accounts.allow(_FREE)
    with pytest.raises(Exception, match="without an exit code"):
        await run("kill -9 0", become=accounts.third)
    assert (await run("kill -TERM $$", become=accounts.third)) == (143, b"", b"")


async def test_a_script_for_another_user(run: Runner, accounts: Accounts) -> None:
    accounts.allow(_FREE)
    script = "import os, sys\nprint(os.getuid() != 0, sys.argv[1:], len(sys.stdin.buffer.read()))\n"
    answer = await run(script, interpreter=("/usr/bin/env", "python3"), arguments=("a b", ""), become=accounts.third, stdin=bytes(70_000))
    assert answer == (0, b"True ['a b', ''] 70000\n", b"")
