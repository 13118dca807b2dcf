"""The heap stays flat over thousands of tasks, as memray sees it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "profiling" / "leak_tasks.py"
KIB = 1024


def _measure(rounds: int, every: int, plant: int = 0) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", str(rounds), "--every", str(every), "--plant", str(plant)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(620)
def test_a_thousand_rounds_of_ten_tasks_leave_nothing() -> None:
    found = _measure(1000, 100)
    assert found["slope_of_second_half"] < 10 * KIB, found
    assert found["growth"] < KIB * KIB, found


def test_a_planted_leak_is_found() -> None:
    found = _measure(40, 4, plant=10 * KIB)
    assert found["slope_of_second_half"] > 10 * KIB, found
