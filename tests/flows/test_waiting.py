"""Whose turn it is among the flow runs that are due."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.waiting import WaitingRoom
from models.owner import Owner

START = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


def _run(minute: int, schedule: str = "") -> FlowRun:
    key = f"scheduled deployment {schedule} {minute}" if schedule else f"by-hand-{minute}"
    return FlowRun(
        flow_id=uuid.uuid4(),
        name=f"{schedule}{minute}",
        expected_start_time=START + timedelta(minutes=minute),
        auto_scheduled=bool(schedule),
        idempotency_key=key,
    )


@pytest.mark.parametrize(
    ("due", "turns"),
    [
        ([_run(3), _run(1), _run(2)], ["1", "2", "3"]),
        ([_run(1), _run(2, "a"), _run(3), _run(4, "a"), _run(5, "a")], ["1", "a5", "a4", "a2", "3"]),
        ([_run(1, "a"), _run(2, "b"), _run(3, "a"), _run(4, "b")], ["a3", "a1", "b4", "b2"]),
    ],
)
def test_the_newest_run_of_a_schedule_has_the_turn_of_the_oldest(due: list[FlowRun], turns: list[str]) -> None:
    nobody = cast("PrefectClient", None)  # none of them waits for so long that anybody is told
    room = WaitingRoom(nobody, Owner(host="h", home="h", incarnation="i"), places=10)
    assert [run.name for run in room.choose(due, [])] == turns
    assert [run.name for run in room.choose(due, [_run(9)] * 9)] == turns[:1]
