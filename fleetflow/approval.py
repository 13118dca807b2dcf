"""Answers the question of a task that waits for approval, by the form of its paused flow run."""

import os
import pwd
import time
import uuid
from typing import TYPE_CHECKING

from models.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from fleetflow.client import Prefect
    from models.records import Approval
    from models.store import Store

_PATIENCE = 10.0  # seconds for the worker to write the answer down, and for a pause that is only just beginning
_LOOK = 0.1  # seconds
_WHY = 2000  # characters that the form takes


def answer(store: "Store", prefect: "Prefect", flow_run_id: uuid.UUID, question: "Approval", *, approve: bool, why: str) -> "Approval":
    """Fill in the form, and return the answer as the worker has stored it, which may be somebody else's who was faster.

    Raises `UnavailableError` when neither happens.
    """
    if len(why) > _WHY:
        raise UsageError(f"--why: {len(why)} characters; give at most {_WHY}")
    form = {"approve": "yes" if approve else "no", "who": login(), "why": why}
    sent, trouble = False, None
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up:
        if stored := _stored(store, question):
            return stored
        if not sent:
            trouble = prefect.resume(flow_run_id, form)
            sent = trouble is None
        time.sleep(_LOOK)
    raise UnavailableError(f"task {question.task_id}", trouble or "the worker has not taken the answer up yet; `fleetflow status` shows it")


def _stored(store: "Store", question: "Approval") -> "Approval | None":
    found = next((approval for approval in store.approvals(question.task_id) if approval.id == question.id), None)
    return found if found is not None and found.answered_at is not None else None


def login() -> str:
    """The user who is logged in here, by name where there is one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
