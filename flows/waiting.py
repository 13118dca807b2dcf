"""Says which of the due flow runs have their turn, oldest first, and tells the others in Prefect that they wait."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.states import Pending, Scheduled
from prefect.utilities.engine import propose_state

from flows.ending import claim_message
from models.owner import Owner

log = logging.getLogger(__name__)

MAINTENANCE = "maintenance"  # a tag: such runs are short, and must not wait for long ones; one of them at a time
WAITING = "Waiting"  # the name of the state of those that have been told
_SILENCE = 2.0  # seconds that a run may wait without a word: telling costs the server more than a short run does
_NEVER_BEGUN = {"Scheduled", "Late"}


class WaitingRoom:
    """The runs that are due, of which `places` at most are under way."""

    def __init__(self, client: PrefectClient, owner: Owner, places: int) -> None:
        self.places = places
        self._client = client
        self._owner = owner
        self._seen: dict[UUID, float] = {}  # when each of those that wait was first seen
        self._telling: asyncio.Task[None] | None = None

    def choose(self, due: Sequence[FlowRun], under_way: Sequence[FlowRun]) -> list[FlowRun]:
        """Those whose turn has come."""
        free = self.places - sum(not _is_maintenance(run) for run in under_way)
        in_order = _in_order(due)
        ordinary = [run for run in in_order if not _is_maintenance(run)]
        chosen, waiting = ordinary[: max(free, 0)], ordinary[max(free, 0) :]
        now = time.monotonic()
        self._seen = {run.id: self._seen.get(run.id, now) for run in waiting}
        self._tell([run for run in waiting if now - self._seen[run.id] > _SILENCE and run.state_name in _NEVER_BEGUN])
        if not any(_is_maintenance(run) for run in under_way):
            chosen += [run for run in in_order if _is_maintenance(run)][:1]
        return chosen

    def _tell(self, waiting: list[FlowRun]) -> None:
        if waiting and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_each(waiting))

    async def _tell_each(self, waiting: list[FlowRun]) -> None:
        message = f"Waits for its turn: worker {self._owner.host} runs {self.places} flow runs at the same time (setting flow_runs)"
        for run in waiting:
            try:
                await self._tell_one(run, message)
            except Exception as error:  # noqa: BLE001 - it waits all the same, and is told at the next look
                log.info("cannot say in Prefect that flow run %s waits: %r", run.id, error)

    async def _tell_one(self, run: FlowRun, message: str) -> None:
        """Claim the run and give it back with the message: nobody else can take it in between, as he could while a state is overwritten."""
        try:
            await propose_state(self._client, Pending(message=claim_message(self._owner)), flow_run_id=run.id)
        except Abort:
            return  # somebody has taken it
        scheduled: State[None] = Scheduled(scheduled_time=run.next_scheduled_start_time or datetime.now(UTC), message=message, name=WAITING)
        await self._client.set_flow_run_state(run.id, scheduled)  # not by force: a cancel meanwhile stays


def _is_maintenance(run: FlowRun) -> bool:
    return MAINTENANCE in run.tags


def schedule_of(run: FlowRun) -> tuple[str, ...]:
    """Which schedule of which deployment made a run: Prefect's key says `scheduled DEPLOYMENT SCHEDULE TIME`. Empty for all others."""
    return tuple((run.idempotency_key or "").split()[:3]) if run.auto_scheduled else ()


def _in_order(due: Sequence[FlowRun]) -> list[FlowRun]:
    """Oldest first; of those that one schedule has made the newest takes the turn of the oldest, for the others will be skipped.

    Each in its own turn, a schedule whose period is shorter than the queue would have all its runs skipped.
    """
    newest_first = sorted(due, key=_age, reverse=True)
    turns = {schedule_of(run): _age(run) for run in newest_first}
    return sorted(newest_first, key=lambda run: turns[schedule_of(run)] if schedule_of(run) else _age(run))


def _age(run: FlowRun) -> tuple[datetime, datetime]:
    never = datetime.max.replace(tzinfo=UTC)
    return run.expected_start_time or never, run.created or never
