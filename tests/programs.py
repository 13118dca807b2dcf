"""Programs that tests need: missing means a skip at a desk and a failure in CI."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

# Where Debian puts PostgreSQL's own programs, each version's in a folder of its own; the newest first.
_POSTGRESQL = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def need(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(["/usr/sbin", "/sbin", *_POSTGRESQL]))
    if not found:
        do_without(f"{name} is not installed")
    return found


def need_root(why: str) -> None:
    """Only root can do what the test does."""
    if os.geteuid() != 0:
        do_without(why)


def do_without(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
