"""What must hold for every executor that is given a script file, a umask or another user; inherited beside `Contract`."""

import asyncio
import os
from pathlib import Path

import pytest

from models.errors import UnreachableError
from tests.executors.contract import Runner, until
from tests.executors.processes import is_alive, marked
from tests.executors.sinks import Collector
from tests.programs import need, need_root

_ARGUMENTS = ("a b", "", 'it\'s "q" $HOME `x` \\ !', "two\nlines\n", "-e", "--", "{}%s*", "é")
_SH = 'for x; do printf "%s|" "$x"; done'
_PYTHON = "import sys\nsys.stdout.write(''.join(x + '|' for x in sys.argv[1:]))\n"
_READERS = {
    "sh": (("/bin/sh",), f"#!/bin/sh\n{_SH}\n"),
    "sh without a line": (("/bin/sh",), _SH),
    "bash": (("/bin/bash", "-e"), f"#!/bin/bash -e\n[[ a ]]; {_SH}\nfalse; echo not here"),
    "python": (("/usr/bin/env", "python3"), f"#!/usr/bin/env python3\n{_PYTHON}"),
}


class ScriptContract:
    """The behaviour that all executors share."""

    @pytest.mark.parametrize(("interpreter", "text"), _READERS.values(), ids=_READERS)
    async def test_a_script_gets_its_arguments_exactly(self, run: Runner, interpreter: tuple[str, ...], text: str) -> None:
        code, stdout, stderr = await run(text, interpreter=interpreter, arguments=_ARGUMENTS)
        assert (code, stderr) == (1 if "false" in text else 0, b"")
        assert stdout.decode() == "".join(f"{argument}|" for argument in _ARGUMENTS)

    @pytest.mark.parametrize("stdin", [b"", b"a\n", bytes(range(256)) * 3, os.urandom(300_000)], ids=len)
    @pytest.mark.parametrize("size", [10, 300 * 1024])
    async def test_a_script_of_any_size_with_any_stdin(self, run: Runner, stdin: bytes, size: int) -> None:
        text = f"#!/bin/sh\n#{'x' * (size // 2)}" + "\n#" * (size // 4) + "\ncat; exit 5\n"
        assert await run(text, interpreter=("/bin/sh",), stdin=stdin) == (5, stdin, b"")

    async def test_a_script_without_stdin_reads_nothing(self, run: Runner) -> None:
        assert await run("readlink /proc/self/fd/0", interpreter=("/bin/sh",)) == (0, b"/dev/null\n", b"")

    async def test_a_script_can_be_sought_and_opened_again(self, run: Runner) -> None:
        text = '#!/bin/sh\nhead -n 1 "$0"; tail -n 1 "$0"; exit\nthe end\n'
        assert await run(text, interpreter=("/bin/sh",)) == (0, b"#!/bin/sh\nthe end\n", b"")

    async def test_a_script_is_in_no_file_with_a_name_and_finds_no_module_of_others(self, run: Runner) -> None:
        text = "import os, sys\nprint(os.path.exists(sys.path[0]), os.readlink(sys.argv[0]), oct(os.stat(sys.argv[0]).st_mode))\n"
        code, stdout, _ = await run(text, interpreter=("/usr/bin/env", "python3"))
        exists, name, deleted, mode = stdout.decode().split()
        assert (code, exists, deleted, mode) == (0, "False", "(deleted)", "0o100600")
        outer = Path(name).parent.parent
        assert outer.name.startswith(".fleetflow-")
        assert not outer.exists()

    @pytest.mark.parametrize("program", ["/no/such/program", "/tmp", "/etc/passwd"])
    async def test_an_interpreter_that_is_not_there_starts_nothing(self, run: Runner, program: str) -> None:
        sink = Collector()
        with pytest.raises(UnreachableError, match=f"interpreter {program} is not there"):
            await run("true", interpreter=(program,), sink=sink)
        assert not sink.has_started

    async def test_a_cancel_ends_the_tree_of_a_script(self, run: Runner, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        text = (
            '(setsid sh -c \'trap "" TERM; echo $$ >>"$1"; while :; do sleep 1; done\' - "$1" &)\ntrap "" TERM; echo $$ >>"$1"; sleep 1000'
        )
        async with run.background(text, interpreter=("/bin/bash",), arguments=(str(pids),)) as task:
            await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not [pid for pid in pids.read_text().split() if is_alive(int(pid))]
        assert not marked(run.attempt)

    async def test_umask(self, run: Runner, tmp_path: Path) -> None:
        assert await run(f"umask; touch {tmp_path}/new", umask="027", stdin=b"x" * 5000) == (0, b"0027\n", b"")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
        assert (await run("umask", umask="077", interpreter=("/bin/sh",)))[1] == b"0077\n"

    async def test_another_user(self, run: Runner) -> None:
        need("sudo")
        need_root("only root can be anybody without a password")
        assert await run("id -un; cat", become="nobody", stdin=b"x" * 5000) == (0, b"nobody\n" + b"x" * 5000, b"")
        async with run.background("trap '' TERM; setsid sleep 1000 & echo; sleep 1000", sink := Collector(), become="nobody") as task:
            await until(lambda: sink.stdout)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not marked(run.attempt)

    async def test_another_user_who_does_not_exist(self, run: Runner) -> None:
        need("sudo")
        with pytest.raises(UnreachableError, match="sudo refuses: "):
            await run("true", become="no-such-user")
