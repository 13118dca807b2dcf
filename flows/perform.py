"""Takes a task from its opening to its end: the store, the rollout, the log and the artifacts, in this order."""

import asyncio
import logging
import time
from dataclasses import replace

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed

from flows import approval, artifacts, events, logins, progress, summary, vault
from flows.brake import Brake
from flows.context import Context
from flows.request import Request
from flows.rollout import BetweenWaves, Interval, Rollout, roll_out
from flows.shards import run_shards
from models.commands import describe
from models.errors import TaskTakenError
from models.recorder import Recording
from models.records import Claim, Outcome, Task, TaskSpec
from models.states import ExecutionState, TaskState
from models.targets import fold

_LOGGED = 20  # failed hosts that get lines of their own in the log

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


async def perform(context: Context, request: Request) -> State[None]:
    """Run a request as the task of the current flow run; a retried flow run runs what has never started of its task.

    However this ends, the task has ended too. Returns the flow run's final state.
    """
    log = get_run_logger()
    try:
        task = await _open(context, request)
    except TaskTakenError as error:
        return Cancelled(message=str(error))
    try:
        if await approval.require(context, request, task, log):
            request = replace(request, login=None)  # somebody may have changed it meanwhile
        revealed = await logins.reveal(await vault.reveal(request), context.settings)
        claims, brake = await _claim(context, task.id)
        names = _shortened(fold(claim.host for claim in claims))
        log.info("Task %d: %s on %s: %s", task.id, describe(request.command), summary.count_hosts(task.hosts), names)
        rollout = Rollout(context, revealed, brake, on_end=_Reporter(log, events.HostEvents(task)))
        context.rollouts[task.id] = rollout
        async with progress.shown(context, task):
            await roll_out(rollout, claims, run_shards, _ask_people(context) if request.confirm_waves else None)
    except asyncio.CancelledError:
        await _conclude(context, task.id, log, canceled=True, reason="canceled")
        raise
    except approval.NotApprovedError as refusal:
        _, sentence = await _conclude(context, task.id, log, canceled=True, reason=str(refusal))
        return Cancelled(message=f"{refusal}; {sentence}")
    except Exception as error:
        await _conclude(context, task.id, log, reason=str(error))
        raise
    finally:
        context.rollouts.pop(task.id, None)
    ended, sentence = await _conclude(context, task.id, log, reason=brake.reason, unstarted=brake.reason and f"not started: {brake.reason}")
    return Completed(message=sentence) if ended.state is TaskState.SUCCEEDED else Failed(message=sentence)


async def _open(context: Context, request: Request) -> Task:
    flow_run = FlowRunContext.get()
    spec = TaskSpec(
        name=request.name,
        command=request.command,
        target=request.target,
        hosts=request.policy.choose([host.name for host in request.hosts]),
        flow_run_id=flow_run.flow_run.id if flow_run and flow_run.flow_run else None,
        policy=request.policy,
        options=request.options,
        retry_of=request.retry_of,
        created_by=request.created_by,
    )
    return await asyncio.to_thread(context.store.open_task, spec, str(context.owner), request.task)


def _ask_people(context: Context) -> BetweenWaves:
    async def ask(interval: Interval) -> str | None:
        hosts = summary.count_hosts(len(interval.hosts))
        question = f"Go on with wave {interval.wave} of {interval.waves} ({hosts})?"
        decision = await approval.ask(context, interval.task_id, question)
        return None if decision.approved else str(approval.NotApprovedError(decision))

    return ask


async def _claim(context: Context, task_id: int) -> tuple[list[Claim], Brake]:
    """The claims of the hosts that are to run, and the brake of the task as it stands: a resumed one may have failures behind it."""
    claims = await asyncio.to_thread(context.store.claim, task_id, str(context.owner))
    task = await asyncio.to_thread(context.store.task, task_id)
    policy = task.policy
    if policy.deadline is None or task.started_at is None:
        return claims, Brake(policy, task.counts)
    left = task.started_at + policy.deadline - time.time()
    return claims, Brake(policy, task.counts, ends_at=asyncio.get_running_loop().time() + left)


async def _conclude(
    context: Context, task_id: int, log: Log, *, canceled: bool = False, reason: str | None = None, unstarted: str | None = None
) -> tuple[Task, str]:
    close = context.store.close_task
    task = await asyncio.to_thread(close, task_id, canceled=canceled, reason=reason, unstarted=unstarted)
    executions = await asyncio.to_thread(context.store.executions, task_id)
    sentence = summary.sentence(task, executions)
    if unstarted is not None:
        sentence = f"{sentence} ({unstarted})"
    log.info("Task %d: %s", task.id, sentence)
    events.task_ended(task, sentence)
    await artifacts.publish(context.store, task, executions, context.settings.hub_url)
    return task, sentence


class _Reporter:
    """Logs each host that did not succeed, with its last lines, and sends its event; only the first ones of many."""

    def __init__(self, log: Log, events: events.HostEvents) -> None:
        self._log = log
        self._events = events
        self._count = 0

    def __call__(self, host: str, outcome: Outcome, recording: Recording) -> None:
        if outcome.state in {ExecutionState.SUCCEEDED, ExecutionState.CANCELED}:
            return
        self._events.host_ended(host, outcome)
        self._count += 1
        if self._count <= _LOGGED:
            what = outcome.error or f"exit code {outcome.exit_code}"
            self._log.warning("%s %s: %s%s", host, outcome.state, what, "".join(f"\n    {_inert(line)}" for line in recording.last_lines()))
        elif self._count == _LOGGED + 1:
            self._log.warning("more hosts did not succeed; the results table and `fleetflow task show` name them all")


def _inert(text: str) -> str:
    return "".join(character if character.isprintable() or character == "\t" else repr(character)[1:-1] for character in text)[:500]


def _shortened(names: str) -> str:
    return names if len(names) <= 500 else names[:499] + "…"
