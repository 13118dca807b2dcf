"""Asks people: the flow run pauses until somebody fills in its form in Prefect's UI, or says `fleetflow task approve`."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.input import RunInput, keyset_from_paused_state
from prefect.input.run_input import Keyset
from prefect.states import Paused
from prefect.utilities.engine import propose_state
from pydantic import Field, ValidationError

from flows import summary
from flows.context import Context
from flows.markdown import literal
from flows.patience import patiently
from flows.request import Request
from models.records import Decision, Task
from models.settings import Settings

_POLL = 0.5  # seconds between looks for an answer
_COMMAND = 500  # characters of a command in a question
_MARGIN = 60.0  # seconds after our own deadline at which Prefect's server ends a pause that nobody waits in any more

Ask = Callable[[str], Awaitable[Decision]]
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class ApprovalForm(RunInput):
    """What Prefect's UI asks for when it resumes the run; `fleetflow task approve` sends the same."""

    approve: Literal["yes", "no"] = Field(title="approve", description="yes: the task goes on. no: what has not started never will.")
    who: str = Field(title="who", min_length=1, max_length=200, description="Your name; it is kept with the task.")
    why: str = Field(title="why", default="", max_length=2000, description="Your reason; it is kept with the task.")


class NotApprovedError(Exception):
    """Somebody said no, or nobody said anything in time."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        said = f"refused by {decision.who}" if decision.who else "not approved"
        super().__init__(f"{said}: {decision.why}" if decision.why else said)


async def require(context: Context, request: Request, task: Task, log: Log) -> bool:
    """Wait for approval where the settings ask for one, and it has not been given; raises `NotApprovedError`.

    Returns whether people were asked, and thus some time has passed.
    """
    reason = why_ask(context.settings, request)
    if reason is None or await asyncio.to_thread(_is_approved, context, task.id):
        return False
    hosts = summary.count_hosts(len(request.hosts))
    log.info("Task %d waits for approval: %s", task.id, reason)
    decision = await ask(context, task.id, f"Run {_shown(request.command.script)} on {hosts}? {reason}")
    log.info("Task %d: %s", task.id, "approved" if decision.approved else "not approved")
    if not decision.approved:
        raise NotApprovedError(decision)
    return True


def _shown(script: str) -> str:
    """A command on one line; that something of it is left out can be seen."""
    line = json.dumps(script)
    return line if len(line) <= _COMMAND else line[: _COMMAND - 1] + "…"


def why_ask(settings: Settings, request: Request) -> str | None:
    """Why a request needs somebody's approval, if it does."""
    limit, pattern = settings.approve_hosts, settings.approve_pattern
    if limit is not None and len(request.hosts) > limit:
        return f"It has more than {summary.count_hosts(limit)}."
    if pattern is not None and re.search(pattern, request.command.script):
        return f"Its command matches {pattern}"
    return None


def _is_approved(context: Context, task_id: int) -> bool:
    """Whether the last answer was yes: a retried flow run goes on with what was approved."""
    return any(approval.approved for approval in context.store.approvals(task_id)[-1:])


async def ask(context: Context, task_id: int, question: str) -> Decision:
    """Pause the current flow run until somebody answers, at most `approval_timeout` seconds; the answer is stored when this returns.

    A cancel goes through; the question is then closed with its task.
    """
    asked = await asyncio.to_thread(context.store.ask, task_id, question)
    timeout = context.settings.approval_timeout
    try:
        async with asyncio.timeout(timeout):
            decision = await _pause(question, timeout + _MARGIN)
    except TimeoutError:
        decision = Decision(approved=False, why=f"nobody answered within {timeout:g} s")
    await asyncio.to_thread(context.store.answer, asked, decision)
    return decision


async def _pause(question: str, seconds: float) -> Decision:
    run = FlowRunContext.get()
    if run is None or run.flow_run is None or not isinstance(run.client, PrefectClient):
        raise RuntimeError("only an async flow run can wait for approval")
    client, flow_run_id = run.client, run.flow_run.id
    while True:
        keys = await patiently(partial(_show_form, client, flow_run_id, question, seconds))
        await _until_resumed(client, flow_run_id)
        if form := await patiently(partial(_read_form, keys)):
            return Decision(approved=form.approve == "yes", who=form.who, why=form.why)
        # Resumed without the form, as by a forced state: that is no answer.


async def _show_form(client: PrefectClient, flow_run_id: UUID, question: str, seconds: float) -> Keyset:
    """Pause with a form. The form is there before the pause, so that nobody finds one without it; each try has keys of its own."""
    paused: State[None] = Paused(timeout_seconds=int(seconds), pause_key=uuid4().hex, message=question)
    keys = keyset_from_paused_state(paused)
    paused.state_details.run_input_keyset = {str(name): key for name, key in keys.items()}
    await ApprovalForm.with_initial_data(description=literal(question)).asave(keys)
    await propose_state(client, paused, flow_run_id=flow_run_id)
    return keys


async def _until_resumed(client: PrefectClient, flow_run_id: UUID) -> None:
    """Wait until the run is Running again; what becomes of a cancelled one, the worker sees to."""
    while True:
        state = (await patiently(lambda: client.read_flow_run(flow_run_id))).state
        if state is not None and state.is_running():
            return
        await asyncio.sleep(_POLL)


async def _read_form(keys: Keyset) -> ApprovalForm | None:
    try:
        return await ApprovalForm.aload(keys)
    except ValidationError:
        return None
