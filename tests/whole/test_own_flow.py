"""Anyone's own flow, in a folder of its own, starts tasks by the deployment alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stacks import Stack

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "prefect.md"


def test_the_documented_flow_runs_from_a_folder_of_its_own(stack: Stack, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code.replace("@web", "127.9.3.[1-2]"))
    (tmp_path / "flows").mkdir()  # a folder of the same name as ours is no trouble
    (tmp_path / "flows" / "__init__.py").write_text("raise RuntimeError('this is not the worker')")
    status = stack.status
    environ = stack.environ | {
        "PREFECT_API_URL": status["api_url"],
        "PREFECT_API_AUTH_STRING": Path(status["auth_file"]).read_text().strip(),
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    done = subprocess.run([sys.executable, "mine.py"], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 hosts succeeded"
    assert stack.newest().target == "127.9.3.[1-2]"
