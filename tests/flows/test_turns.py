"""What writes in Prefect's server waits for its turn, and not for SQLite, which would give up sooner here."""

import os
import subprocess
import sys
from pathlib import Path


def test_writers_inside_and_outside_transactions_wait_for_each_other_and_readers_for_nobody(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("turning.py")), str(tmp_path / "database")],
        env=os.environ | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    read, first, *others = done.stdout.splitlines()
    assert (read, first, sorted(others)) == ("read 0", "holder", ["alone", "one of many", "one of many", "transaction"])
