"""A host for durable runs on each shell."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.executors.spooled import SHELLS, Spooled, spooled


@pytest.fixture(params=SHELLS)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spooled]:
    with spooled(request.param, tmp_path) as made:
        yield made
