"""The memory of the hub and of its agents stays flat over commands and broken connections."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "profiling" / "soak_hub.py"
# A minute tells less than the ten of `make soak`, which are judged by 10 MB an hour: statements are prepared for the first time, and
# agents grow by pages.
ALLOWED = 40  # MB an hour


def _soak(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--agents", "30", "--heap", *arguments],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.stdout, done.stderr
    growth: dict[str, float] = json.loads(done.stdout)["mb_an_hour"]
    return growth


@pytest.mark.timeout(220)
def test_a_minute_of_commands_and_reconnects_leaves_nothing() -> None:
    growth = _soak("--seconds", "60", "--real", "1")
    assert set(growth) == {"hub", "real-1"}
    assert max(growth.values()) < ALLOWED, growth


@pytest.mark.timeout(220)
def test_agents_that_never_go_are_found() -> None:
    growth = _soak("--seconds", "20", "--real", "0", "--plant", "40")
    assert growth["hub"] > ALLOWED, growth
