"""A client in a process of its own that may be stopped or killed: a tree of processes on a connection that has served a run before.

Called as `python -m tests.executors.ssh.warm SSHD_FOLDER PORT WORD USER BEAT_TIMEOUT`.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.executors.ssh.running import runner
from tests.servers.sshd import Sshd, end_tree
from tests.stacks import marked, new_word
from tests.until import until

_TREE = "trap '' TERM; setsid sleep 300 & nohup sleep 300 >/dev/null 2>&1 & (sleep 300 & sleep 300) & sleep 300"


@contextmanager
def client(sshd: Sshd, user: str, beat_timeout: float) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A client whose tree is there, and the word by which `marked` finds it."""
    word = new_word()
    module = [sys.executable, "-m", "tests.executors.ssh.warm", str(sshd.folder), str(sshd.port), word, user, str(beat_timeout)]
    process = subprocess.Popen(module, cwd=Path(__file__).parents[3])
    try:
        until(lambda: len(marked(word)) >= 5, 30, "the command to run")
        yield process, word
    finally:
        end_tree(process)


async def _run(sshd: Sshd, word: str, user: str, beat_timeout: float) -> None:
    async with runner(sshd.settings(beat_timeout=beat_timeout, grace=0.5)) as run:
        host = sshd.host(user=user)
        await run(host, "true")
        await run(host, _TREE, env={"WORD": word})


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    server = Sshd(folder, int(sys.argv[2]), None, {}, folder / "id_ed25519", made=[folder] * 1000)  # type: ignore[arg-type]  # it runs elsewhere
    asyncio.run(_run(server, sys.argv[3], sys.argv[4], float(sys.argv[5])))
