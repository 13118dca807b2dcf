"""Login shells and servers other than bash under OpenSSH give the same results."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.executors.processes import is_alive
from tests.executors.ssh.running import Recorded, Runner, runner
from tests.programs import need
from tests.servers.dropbear import run_dropbear
from tests.servers.sshd import Sshd, run_sshd
from tests.until import until

SHELLS = ("dash", "bash", "tcsh", "fish", "busybox")
SCRIPT = """echo "$A" | tr a-z A-Z; cat; printf '%s' 'it'"'"'s! \\\\ %d' >&2; exit 3"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sshd]]:
    """Starts a server whose sessions have the login shell of that name, once."""
    with ExitStack() as stack:
        running: dict[str, Sshd] = {}

        def server(name: str) -> Sshd:
            if name not in running:
                folder = tmp_path_factory.mktemp(name)
                running[name] = stack.enter_context(
                    run_dropbear(folder) if name == "dropbear" else run_sshd(folder, login_shell(name, folder))
                )
            return running[name]

        yield server


def login_shell(name: str, folder: Path) -> list[str]:
    """A forced command is run by the account's own shell, which only hands over to the one that is wanted."""
    program = need(name)
    call = f"{program} sh" if name == "busybox" else program
    noise = folder / "noise"
    noise.write_text("echo welcome; echo to this host >&2\n")
    noisy = f"BASH_ENV={noise} " if name == "bash" else ""
    return [f'ForceCommand {noisy}exec {call} -c "$SSH_ORIGINAL_COMMAND"']


async def ran(run: Runner, server: Sshd) -> tuple[int, bytes, bytes]:
    sink = Recorded()
    result = await run(server.host(), SCRIPT, sink, env={"A": "a b$c"}, stdin=b"in\0put\n")
    return result.exit_code, sink.stdout, sink.stderr


@pytest.mark.parametrize("name", [*SHELLS, "dropbear"])
async def test_the_same_results(start: Callable[[str], Sshd], sshd: Sshd, name: str) -> None:
    server = start(name)
    async with runner(sshd.settings()) as run:
        expected = await ran(run, sshd)
    async with runner(server.settings()) as run:
        for _ in range(2):  # the second on the open connection
            assert await ran(run, server) == expected
    assert expected == (3, b"A B$C\nin\0put\n", b"it's! \\\\ %d")


@pytest.mark.parametrize("name", [*SHELLS, "dropbear"])
async def test_a_cancel_ends_the_whole_tree(start: Callable[[str], Sshd], tmp_path: Path, name: str) -> None:
    server = start(name)
    sink = Recorded()
    async with runner(server.settings()) as run:
        await run(server.host(), "true")
        script = f"cd {tmp_path}; (trap '' TERM; echo $$ >one; sh -c 'echo $$ >two; sleep 300' & wait); sleep 300"
        running = asyncio.create_task(run(server.host(), f"echo started; {script}", sink))
        pids = [
            int(await asyncio.to_thread(until, lambda file=file: file.exists() and file.read_text()))
            for file in (tmp_path / "one", tmp_path / "two")
        ]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not any(map(is_alive, pids))


async def test_bash_really_was_noisy(start: Callable[[str], Sshd]) -> None:
    assert "BASH_ENV" in (start("bash").folder / "sshd_config").read_text()
