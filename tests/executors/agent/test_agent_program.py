"""The program as a file: what it needs of the host it is copied to."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors.agent.agents import PROGRAM
from tests.programs import need

_NOBODY = 65534
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


def test_systemd_takes_its_unit(tmp_path: Path) -> None:
    state = tmp_path / "it's 100% $HOME"
    made = subprocess.run([sys.executable, str(PROGRAM), "unit", "--state", str(state)], capture_output=True, text=True, check=True).stdout
    assert f'run --state "{tmp_path}/it\'s 100%% $$HOME" --scopes\n' in made
    unit = tmp_path / "fleetflow-agent.service"

    def verify(text: str) -> tuple[int, str]:
        unit.write_text(text)
        line = [need("systemd-analyze"), "verify", "--man=no", str(unit)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, "".join(line for line in done.stderr.splitlines() if unit.name in line)

    assert verify(made) == (0, "")
    assert verify(made.replace("KillMode=process", "KillMode=all"))[1] != "", "it says nothing, whatever it reads"


def test_it_installs_only_what_arrived_whole_into_a_folder_of_its_own(tmp_path: Path) -> None:
    text = "".join(PROGRAM.with_name(name).read_text() for name in ("common.sh", "install.sh"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "theirs").touch()

    def install(folder: str, program: bytes, service: str = "plain") -> tuple[int, str]:
        words = ["sh", "-c", text, "sh", hashlib.sha256(PROGRAM.read_bytes()).hexdigest(), "http://127.0.0.1:1", "", service]
        done = subprocess.run([*words, str(tmp_path / folder)], input=program, capture_output=True, timeout=60, check=False)
        return done.returncode, done.stderr.decode()

    assert install("new", PROGRAM.read_bytes()[:-1]) == (1, "the program did not arrive whole\n")
    assert list((tmp_path / "new").iterdir()) == []
    code, said = install("taken", PROGRAM.read_bytes())
    assert (code, "a folder of its own" in said, len(list((tmp_path / "taken").iterdir()))) == (1, True, 1)
    if os.geteuid() == 0:
        os.chown(tmp_path / "new", _NOBODY, _NOBODY)
        assert install("new", PROGRAM.read_bytes()) == (1, f"{tmp_path}/new is another user's\n")
        os.chown(tmp_path / "new", 0, 0)
    if not Path("/run/systemd/system").exists():
        assert install("new", PROGRAM.read_bytes(), "systemd")[1] == "there is no systemd; --service plain does without\n"


_AS_ROOT = """
for folder in /usr/local/lib /var/lib /etc/systemd /run/systemd; do mkdir -p "$folder"; mount -t tmpfs none "$folder" || exit 99; done
mkdir /etc/systemd/system /run/systemd/system
printf '#!/bin/sh\\necho "$*" >>"$CALLS"\\n' >"$BIN/systemctl"; chmod +x "$BIN/systemctl"; PATH=$BIN:$PATH
for round in 1 2; do sh "$INSTALL" "$SUM" http://127.0.0.1:1 "" auto "" <"$PROGRAM" || exit; done
cat /etc/systemd/system/fleetflow-agent.service
sh "$INSTALL" "$SUM" http://127.0.0.1:1 "" systemd "$BIN/other" <"$PROGRAM" && exit 98
sh "$REMOVE" "" || exit
find /usr/local/lib /var/lib /etc/systemd/system -type f
"""


def test_root_gets_a_service_of_systemd_and_remove_takes_all_of_it_away(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run([need("unshare"), "-m", "true"], check=False).returncode:
        pytest.skip("only root can put other folders in the place of the system's, for itself alone")
    (tmp_path / "bin").mkdir()
    names = {"INSTALL": "install.sh", "REMOVE": "remove.sh"}
    for name in names.values():
        (tmp_path / name).write_text("".join(PROGRAM.with_name(part).read_text() for part in ("common.sh", name)))
    given = {key: str(tmp_path / name) for key, name in names.items()} | {"BIN": str(tmp_path / "bin"), "CALLS": str(tmp_path / "calls")}
    given |= {"PROGRAM": str(PROGRAM), "SUM": hashlib.sha256(PROGRAM.read_bytes()).hexdigest()}
    line = ["unshare", "-m", "--propagation", "private", "sh", "-c", _AS_ROOT]
    done = subprocess.run(line, env=os.environ | given, capture_output=True, text=True, timeout=60, check=False)
    first, told, second, again, *unit, removed = done.stdout.splitlines()
    assert (first, second, removed) == ("systemd looks after it", "systemd looks after it", "removed"), done.stderr
    assert json.loads(told) == json.loads(again), "a second install keeps who it is"
    assert next(line for line in unit if "ExecStart" in line).endswith(
        '"/usr/local/lib/fleetflow-agent.py" run --state "/var/lib/fleetflow-agent" --scopes'
    )
    assert "is that of another agent, which lies elsewhere" in done.stderr
    begin = ["daemon-reload", "enable --quiet fleetflow-agent", "start fleetflow-agent"]
    end = ["disable --quiet --now fleetflow-agent", "daemon-reload"]
    end += ["list-units --plain --no-legend fleetflow-*.scope", "stop system-fleetflow.slice"]
    assert (tmp_path / "calls").read_text().splitlines() == [*begin, "stop fleetflow-agent", *begin, *end]


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a user who is not root: nobody, where we are."""
    folder = Path(tempfile.mkdtemp(prefix="fleetflow-home-"))  # pytest's own folders are closed to others
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
    yield folder
    shutil.rmtree(folder)


def test_a_user_has_an_agent_of_his_own_until_it_leaves(home: Path) -> None:
    program = PROGRAM.read_bytes()
    who: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def run(name: str, *words: str) -> list[str]:
        text = "".join(PROGRAM.with_name(part).read_text() for part in ("common.sh", name))
        environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["sh", "-c", text, "sh", *words], input=program, env=environment, capture_output=True, timeout=60, check=False, cwd="/", **who
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().splitlines()

    how, told = run("install.sh", hashlib.sha256(program).hexdigest(), "http://127.0.0.1:1", "", "auto", "")
    assert ("it will not survive a reboot" in how, set(json.loads(told))) == (True, {"agent", "digest", "machine", "version"})
    assert [path.name for path in home.iterdir()] == [".fleetflow"]
    lock, folder = home / ".fleetflow" / "agent" / "lock", home / ".fleetflow" / "agent"
    assert Path(f"/proc/{lock.read_text()}/cmdline").read_text().endswith(f"run\0--state\0{folder}\0")
    (folder / "policy").touch()
    assert run("remove.sh", "") == [f"{folder} holds something else, which stays", "removed"]
    assert [path.name for path in folder.iterdir()] == ["policy"]
    assert run("remove.sh", "") == ["there was none"]
