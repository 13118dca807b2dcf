"""A secret is a name until it is sent: its value is found nowhere else."""

import threading
from pathlib import Path

from tests.stacks import Stack, marked, new_word
from tests.until import until


def test_the_canary_is_found_nowhere(stack: Stack, secret: str) -> None:
    word = new_word()
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if secret.encode() in file.read_bytes():
                        seen.add(file.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    target = "127.7.0.[1-3],localhost"
    script = 'test "$KEY" = "$(printf "%s-%s-%s" canary of the-worker-7f3a)"'
    done = stack("run", f"{script} && sleep 1", "-t", target, "--env", "KEY=secret:CANARY", "--env", f"WORD={word}")
    assert done.returncode == 0, f"the command must get the value: {done.stderr}"
    until(lambda: not marked(word), 10)
    over.set()
    watcher.join()
    assert seen == set(), "in an argument list"
    task = stack.newest()
    assert task.command.env["KEY"] == "secret:CANARY"
    stack.ended(task.flow_run_id)
    assert (
        secret
        not in stack("config", "show").stdout
        + stack("task", "show", str(task.id)).stdout
        + stack("task", "show", "--json", str(task.id)).stdout
    )
    for file in stack.home.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), f"in {file}"
    artifacts = stack.api("POST", "/artifacts/filter", {"limit": 200})
    assert artifacts
    assert secret not in str(artifacts)


def test_a_secret_that_the_worker_does_not_have_starts_nothing(stack: Stack, tmp_path: Path) -> None:
    done = stack("run", f"touch {tmp_path / 'ran'}", "-t", "127.7.0.1,localhost", "--env", "KEY=secret:NO_SUCH")
    assert done.returncode == 1
    assert "FLEETFLOW_SECRET_NO_SUCH" in done.stderr
    assert not (tmp_path / "ran").exists()
