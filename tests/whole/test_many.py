"""Twenty tasks at once against the same hosts; `make soak` does the same with a hundred hosts, again and again."""

from pathlib import Path

import pytest

from tests.burst import Burst
from tests.stacks import Stack
from tests.until import until

pytestmark = pytest.mark.slow


def test_twenty_tasks_at_once_lose_nothing_and_create_nothing_twice(stack: Stack, tmp_path: Path) -> None:
    burst = Burst(stack, tmp_path / "witness", tasks=20, hosts=5)
    assert burst.run(90) == ["COMPLETED"] * 20
    burst.check()


def test_a_run_says_that_it_waits_for_its_turn(stack: Stack, tmp_path: Path) -> None:
    go, said = tmp_path / "go", tmp_path / "said"
    for _ in range(4):
        stack.create_run(command=f"while [ ! -e {go} ]; do sleep 0.1; done", target="localhost")
    store = stack.store()
    until(lambda: sum(line.running for line in store.tasks(4)) == 4, 30, "four runs to fill all places")
    process = stack.start("run", "echo mine", "-t", "localhost", stderr=said)
    try:
        until(lambda: "waits for its turn: worker" in said.read_text(), 30, "a word on why nothing happens")
        assert [line.running for line in store.tasks(4)] == [1] * 4, "it has not begun"
    finally:
        go.touch()
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"localhost: mine\n"), said.read_text()
    until(lambda: [line.state for line in store.tasks(5)] == ["succeeded"] * 5, 20, "the end of all")
    store.close()
