"""The store's room for questions to people: what a task asked, who answered, when and why."""

import time

from sqlalchemy import Connection, bindparam, insert, select, update

from models.records import Approval, Decision
from models.tables import ApprovalRow

_OF_TASK = select(*ApprovalRow.__table__.c).where(ApprovalRow.task_id == bindparam("task")).order_by(ApprovalRow.id)
_OPEN = _OF_TASK.where(ApprovalRow.answered_at.is_(None)).limit(1)
_ANSWER = update(ApprovalRow).where(ApprovalRow.answered_at.is_(None))


def ask(connection: Connection, task_id: int, question: str) -> int:
    """Write a question down; returns its number."""
    made = insert(ApprovalRow).values(task_id=task_id, question=question, asked_at=time.time()).returning(ApprovalRow.id)
    return connection.execute(made).scalar_one()


def answer(connection: Connection, approval_id: int, decision: Decision) -> None:
    """Write the answer to a question down, unless it has one."""
    connection.execute(_ANSWER.where(ApprovalRow.id == approval_id).values(**_values(decision, time.time())))


def end(connection: Connection, task_id: int, reason: str, now: float) -> None:
    """Close what a task that has ended still asks: nobody approved it."""
    ended = Decision(approved=False, why=reason)
    connection.execute(_ANSWER.where(ApprovalRow.task_id == task_id).values(**_values(ended, now)))


def _values(decision: Decision, now: float) -> dict[str, object]:
    return {"approved": decision.approved, "who": decision.who, "why": decision.why, "answered_at": now}


def of_task(connection: Connection, task_id: int) -> list[Approval]:
    return [Approval(**row) for row in connection.execute(_OF_TASK, {"task": task_id}).mappings()]


def open_of_task(connection: Connection, task_id: int) -> Approval | None:
    row = connection.execute(_OPEN, {"task": task_id}).mappings().one_or_none()
    return Approval(**row) if row else None
