"""Tasks that people asked for at the REST API: they stand here before there is a flow run, and none is lost or made twice.

A worker makes the flow run of each, and writes down which; the flow run then takes its task. Until then the task has no owner.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, func, select, update

from models import audit, opening, reading, sweep
from models.access import Access
from models.audit import Actor
from models.errors import RequestKeyError, TaskTakenError
from models.ranges import fold
from models.records import Task, TaskSpec
from models.tables import TaskRow

_MANY = 100  # tasks that are looked at in one go


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that waits for its flow run to take it."""

    task: int
    flow_run_id: uuid.UUID


class Requests:
    """The tasks of one database that no flow run has taken yet."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def create(self, specs: Sequence[TaskSpec], by: Actor) -> list[Task]:
        """Create the tasks that these ask for, all or none of them, but for those that the same keys have created before.

        Raises `RequestKeyError` where a key has created another task than it asks for now.
        """
        keys = [spec.request_key for spec in specs]
        with self._access.writing() as connection:
            known = {row.request_key: row.id for row in connection.execute(_KNOWN, {"keys": keys})}
            new = [spec for spec in specs if spec.request_key not in known]
            if new:
                ids = opening.insert_tasks(connection, new, None)
                known |= dict(zip((spec.request_key for spec in new), ids, strict=True))
                audit.write(connection, by, "task.create", _name(ids), detail=new[0].name)
            tasks = [reading.task(connection, known[key]) for key in keys]
            for task, spec in zip(tasks, specs, strict=True):
                if (task.command, task.target) != (spec.command, spec.target):
                    raise RequestKeyError(task.id)
        return tasks

    def waiting(self, most: int) -> list[Task]:
        """The oldest tasks that want a flow run, as many as make `most` of them with those whose run has not begun."""
        with self._access.reading() as connection:
            begun = connection.scalar(_BEGUN) or 0
            if begun >= most:
                return []
            return [reading.task(connection, number) for number in connection.scalars(_WAITING, {"most": most - begun})]

    def bind(self, task_id: int, flow_run_id: uuid.UUID) -> None:
        """Write down the flow run of a task."""
        with self._access.writing() as connection:
            connection.execute(_BIND, {"task": task_id, "flow_run": str(flow_run_id)})

    def taken(self) -> list[Taken]:
        """The tasks whose flow run has not begun, the oldest first."""
        with self._access.reading() as connection:
            return [Taken(row.id, uuid.UUID(row.flow_run_id)) for row in connection.execute(_TAKEN)]

    def end(self, task_id: int, why: str) -> bool:
        """End a task whose flow run ended without it; False when one has taken it meanwhile."""
        with self._access.writing() as connection:
            task = reading.task(connection, task_id)
            if task.owner is not None or task.state.is_final:
                return False
            sweep.end_task(connection, task_id, canceled=False, reason=why, unstarted=why, now=time.time())
            return True

    def cancel(self, task_id: int, by: Actor) -> bool:
        """Have a task ended: at once when nothing has taken it, else whoever runs it obeys.

        False when it has ended, or somebody has asked before.
        """
        with self._access.writing() as connection:
            task = reading.task(connection, task_id)
            if task.state.is_final or task.cancel_requested_by is not None:
                return False
            audit.write(connection, by, "task.cancel", f"task {task_id}")
            if task.owner is None:
                sweep.end_task(connection, task_id, canceled=True, reason=f"canceled by {by.who}", now=time.time())
                return True
            return task.flow_run_id is not None and sweep.request_cancel(connection, task.flow_run_id, by.who, time.time())


def take(connection: Connection, task_id: int, spec: TaskSpec, owner: str) -> Task:
    """Give a task to the flow run of `spec`; raises `TaskTakenError` where it has ended, or another run has it."""
    task = reading.task(connection, task_id)
    if task.owner is not None and task.flow_run_id == spec.flow_run_id:  # a run that is resumed, perhaps in another worker
        return task
    if task.owner is not None or task.state.is_final or task.flow_run_id not in {None, spec.flow_run_id}:
        raise TaskTakenError(task_id, task.reason)
    opening.replace_task(connection, task_id, replace(spec, retry_of=task.retry_of), owner)
    return reading.task(connection, task_id)


def _name(ids: Sequence[int]) -> str:
    return f"task {ids[0]}" if len(ids) == 1 else f"tasks {fold(map(str, ids))}"


_KNOWN = select(TaskRow.request_key, TaskRow.id).where(TaskRow.request_key.in_(bindparam("keys", expanding=True)))
# As the index says that finds them: the tasks of the REST API that no worker has taken.
_UNTAKEN = (TaskRow.request_key.is_not(None), TaskRow.owner.is_(None), TaskRow.finished_at.is_(None))
_BEGUN = select(func.count()).where(*_UNTAKEN, TaskRow.flow_run_id.is_not(None))
_WAITING = select(TaskRow.id).where(*_UNTAKEN, TaskRow.flow_run_id.is_(None)).order_by(TaskRow.id).limit(bindparam("most"))
_TAKEN = select(TaskRow.id, TaskRow.flow_run_id).where(*_UNTAKEN, TaskRow.flow_run_id.is_not(None)).order_by(TaskRow.id).limit(_MANY)
_BIND = update(TaskRow).where(TaskRow.id == bindparam("task"), TaskRow.flow_run_id.is_(None)).values(flow_run_id=bindparam("flow_run"))
