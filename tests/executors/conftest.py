"""A host for durable runs on each shell."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.spooled import SHELLS, Spooled, spooled


# Every shell in `make soak`: what one of them does the others nearly always do.
@pytest.fixture(params=["dash", *(pytest.param(shell, marks=pytest.mark.slow) for shell in SHELLS if shell != "dash")])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spooled]:
    with spooled(request.param, tmp_path) as made:
        yield made
