"""Twenty tasks at once against the same hosts; `make soak` does the same with a hundred hosts, again and again."""

from pathlib import Path

from tests.burst import Burst
from tests.stacks import Stack


def test_twenty_tasks_at_once_lose_nothing_and_create_nothing_twice(stack: Stack, tmp_path: Path) -> None:
    burst = Burst(stack, tmp_path / "witness", tasks=20, hosts=5)
    assert burst.run(90) == ["COMPLETED"] * 20
    burst.check()
