"""The program as a file: what it needs of the host it is copied to."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.executors.agent.agents import PROGRAM

TREE = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))


def test_it_is_written_for_python_3_8() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("vermin"), "--target=3.8-", "--violations", "--no-tips", str(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_it_needs_the_standard_library_alone() -> None:
    imports = [node for node in ast.walk(TREE) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_its_functions_fit_a_screen() -> None:
    functions = [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]
    assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 50]


def test_it_can_be_copied_and_run_alone(tmp_path: Path) -> None:
    copy = tmp_path / "agent.py"
    copy.write_bytes(PROGRAM.read_bytes())
    shown = subprocess.run([sys.executable, "-I", "-S", str(copy), "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.strip()
