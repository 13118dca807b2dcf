"""A few of the places where a durable run may be killed; `make chaos` tries them all."""

import pytest

from tests.executors.crashing import crash
from tests.executors.spooled import Spooled

POINTS = (("write", 3), ("clone,clone3,fork,vfork", 1), ("clone,clone3,fork,vfork", 2), ("execve", 2), ("dup2,dup3", 12))


@pytest.mark.slow
@pytest.mark.parametrize("box", ["dash", "busybox"], indirect=True)
def test_whatever_is_killed_nothing_starts_twice_and_the_verdict_is_true(box: Spooled) -> None:
    for calls, nth in POINTS:
        verdict, found = crash(box, calls, nth)
        assert not found, (calls, nth, verdict, found)
