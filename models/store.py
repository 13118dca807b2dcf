"""The one object that owns all SQL: it opens tasks, moves executions and answers questions.

Synchronous. The recorder's thread writes what runs report; everything else comes from threads of its callers. SQL is in rooms:
opening (new tasks and attempts), requests (tasks that wait for their flow run), journal (what runs report), sweep (moves of many
rows at once), adoption (what a dead worker had running), workers (who lives), approvals (people's answers), reading (questions).
"""

import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Self

from sqlalchemy import insert, select

from models import adoption, approvals, audit, journal, opening, reading, requests, sweep, workers
from models.access import Access
from models.audit import Actor
from models.errors import LeaseLostError
from models.records import (
    WORKER_STOPPED,
    Approval,
    Claim,
    Decision,
    Entry,
    Execution,
    Finished,
    OpenTask,
    Outcome,
    Piece,
    Task,
    TaskLine,
    TaskSpec,
)
from models.rows import Row, row
from models.states import ExecutionState
from models.tables import AttemptRow, StackRow
from models.values import OnDisconnect

_NEWEST = 2**62  # above every task's number


class Store:
    """All tasks, executions, attempts and outputs of one database."""

    def __init__(self, access: Access, *, host_limit: int | None = None) -> None:
        self.access = access
        self._host_limit = host_limit
        self._lines = reading.Prepared(reading.TASK_LINES, access.engine.dialect)

    @classmethod
    def open(cls, url: str, *, cache_kib: int = 8192, host_limit: int | None = None) -> Self:
        """Open the database at `url`; raises `UnavailableError` or `DatabaseVersionError`.

        With a `host_limit`, `write` refuses a start on a host on which that many executions of any task are running.
        """
        return cls(Access.open(url, cache_kib=cache_kib), host_limit=host_limit)

    def close(self) -> None:
        self.access.close()

    def identity(self) -> str:
        """The UUID of this database."""
        with self.access.reading() as connection:
            return connection.execute(select(StackRow.id)).scalar_one()

    # Tasks

    def open_task(self, spec: TaskSpec, owner: str, requested: int | None = None) -> Task:
        """Create a task with its executions in one transaction; the same flow run id gives the task that it gave before.

        `requested` is the number of the one that was created for this run. Raises `TaskTakenError`.
        """
        with self.access.writing() as connection:
            if requested is not None:
                return requests.take(connection, requested, spec, owner)
            known = reading.task_of_flow_run(connection, spec.flow_run_id) if spec.flow_run_id else None
            if known is not None:
                return known
            (task_id,) = opening.insert_tasks(connection, [spec], owner)
            audit.write(connection, Actor(spec.created_by or "Prefect", "flow run"), "task.create", f"task {task_id}", detail=spec.name)
            return reading.task(connection, task_id)

    def create_tasks(self, specs: Sequence[TaskSpec], owner: str | None = None) -> list[int]:
        """Create many tasks with their executions in one transaction; returns their numbers."""
        with self.access.writing() as connection:
            return opening.insert_tasks(connection, specs, owner)

    def claim(self, task_id: int, owner: str) -> list[Claim]:
        """Take every execution of a task that has never started, each with a new attempt, in the order of the target.

        What is still `running` belonged to a run of the same task that nobody follows any more. Of a durable task, and on hosts
        with an agent, it is taken over, with the offsets up to which its output is stored; else it becomes `lost`.
        """
        now = time.time()
        with self.access.writing() as connection:
            task = reading.task(connection, task_id)
            if task.counts[ExecutionState.RUNNING] and task.command.on_disconnect is OnDisconnect.END:
                sweep.lose_undelivered(connection, task_id, "the flow run that followed it ended", now)
            adopted = adoption.adopt(connection, task.id, owner)
            claims = opening.claim(connection, task_id, owner, now)
            sweep.start_task(connection, task_id, owner, now)
            return sorted([*adopted, *claims], key=lambda claim: claim.execution_id)

    def close_task(self, task_id: int, *, canceled: bool = False, reason: str | None = None, unstarted: str | None = None) -> Task:
        """End a task: what never started becomes `canceled`, what is still running `lost`, and its state follows from the counters.

        `unstarted` is what is said of each host that never started, where the task's own limits kept it from starting: such a task
        has failed, whether or not anything ran.
        """
        with self.access.writing() as connection:
            task = reading.task(connection, task_id)
            if canceled and task.cancel_requested_by:
                reason = _canceled_by(task)
            sweep.end_task(connection, task_id, canceled=canceled, reason=reason, unstarted=unstarted, now=time.time())
            return reading.task(connection, task_id)

    def settle(self, task_id: int, dead: str, decided: Sequence[tuple[Claim, Outcome]]) -> bool:
        """End a dead worker's task: what was running as `decided`, what never started `canceled`.

        False, and the task stays open, while something of it runs about which nothing has been decided.
        """
        with self.access.writing() as connection:
            task = next((task for task in reading.open_tasks(connection, dead) if task.id == task_id), None)
            if task is None:
                return True  # it has ended, or somebody has resumed it
            now = time.time()
            journal.write_each(connection, [Finished(claim, now, ExecutionState.RUNNING, outcome, (), {}) for claim, outcome in decided])
            if reading.recount(connection, task.id)[ExecutionState.RUNNING]:
                return False
            asked = task.cancel_requested_by is not None
            sweep.end_task(connection, task_id, canceled=asked, reason=_canceled_by(task) if asked else WORKER_STOPPED, now=now)
            return True

    # Cancels

    def request_cancel(self, flow_run_id: uuid.UUID, by: str) -> bool:
        """Ask for the end of a flow run's task; whoever runs it obeys. False when it has no open task, or somebody has asked before."""
        with self.access.writing() as connection:
            is_new = sweep.request_cancel(connection, flow_run_id, by, time.time())
            if is_new and (task := reading.line_of_flow_run(connection, flow_run_id)):
                audit.write(connection, Actor(by, "flow run"), "task.cancel", f"task {task.id}")
            return is_new

    def cancels(self, owner: str) -> list[OpenTask]:
        """The open tasks of a worker that somebody wants canceled."""
        with self.access.reading() as connection:
            return reading.cancels(connection, owner)

    # Workers

    def take_lease(self, owner: str, seconds: float) -> None:
        """Begin a worker's life. From now on this store writes in its name, and raises `LeaseLostError` once it was taken for dead."""
        with self.access.writing() as connection:
            workers.grant(connection, owner, seconds)
        self.access.write_as(owner)

    def renew_lease(self, owner: str, seconds: float) -> bool:
        """Extend a worker's life; False when it was taken for dead."""
        try:
            with self.access.writing() as connection:
                return workers.renew(connection, owner, seconds)
        except LeaseLostError:
            return False

    def leave(self, owner: str) -> None:
        """End a worker's own life."""
        with suppress(LeaseLostError), self.access.writing() as connection:
            workers.leave(connection, owner)

    def living_workers(self) -> set[str]:
        with self.access.reading() as connection:
            return workers.living(connection)

    def dead_workers(self) -> list[str]:
        """Those that have ended, or whose lease has run out, and of whom something may be left."""
        with self.access.reading() as connection:
            return workers.dead(connection)

    def take_over(self, dead: str, reaper: str, *, certainly: bool = False) -> bool:
        """Shut out a dead worker for good, so that `reaper` ends what it left; False when it lives, or somebody else does that."""
        with self.access.writing() as connection:
            return workers.take_over(connection, dead, reaper, certainly=certainly)

    def forget_worker(self, dead: str) -> None:
        """Remove a dead worker of whom nothing is left."""
        with self.access.writing() as connection:
            workers.forget(connection, dead)

    def open_tasks(self, owner: str) -> list[OpenTask]:
        """The tasks of a worker that have not ended."""
        with self.access.reading() as connection:
            return reading.open_tasks(connection, owner)

    def running(self, task_id: int) -> list[Claim]:
        """The claims of a task's running executions."""
        with self.access.reading() as connection:
            return reading.running(connection, task_id)

    # Approvals

    def ask(self, task_id: int, question: str) -> int:
        """Write down that a task waits for somebody's answer; returns the question's number."""
        with self.access.writing() as connection:
            return approvals.ask(connection, task_id, question)

    def answer(self, approval_id: int, decision: Decision) -> None:
        """Write down how a question was answered, unless it has an answer."""
        with self.access.writing() as connection:
            approvals.answer(connection, approval_id, decision)

    def approvals(self, task_id: int) -> list[Approval]:
        """What a task has asked, the oldest first."""
        with self.access.reading() as connection:
            return approvals.of_task(connection, task_id)

    def open_approval(self, task_id: int) -> Approval | None:
        """What a task is waiting for somebody to answer."""
        with self.access.reading() as connection:
            return approvals.open_of_task(connection, task_id)

    # What runs report

    def write(self, entries: Sequence[Entry]) -> list[bool]:
        """Write entries in one transaction.

        False for each move that came too late, because somebody else had moved the row, and for each start on a host that is
        busy; `is_ours` tells the two apart.
        """
        try:
            with self.access.writing() as connection:
                journal.write_all(connection, entries, self._host_limit)
        except journal.StaleError:
            with self.access.writing() as connection:
                return journal.write_each(connection, entries, self._host_limit)
        return [True] * len(entries)

    def try_again(self, end: Finished, owner: str) -> Claim | None:
        """End an attempt and open the next one at the same execution, which is `queued` again; None: somebody else had moved the row."""
        with self.access.writing() as connection:
            (attempt_id,) = opening.allocate(connection, AttemptRow.id, 1)
            claim = journal.following(end.claim, attempt_id)
            if not journal.requeue(connection, end, claim):
                return None
            connection.execute(insert(AttemptRow), [opening.attempt_values(claim, owner, end.at)])
            return claim

    def is_ours(self, claim: Claim) -> bool:
        """Whether the execution is still queued as it was claimed."""
        with self.access.reading() as connection:
            return reading.is_queued(connection, claim)

    def busy_hosts(self, hosts: Collection[str]) -> set[str]:
        """Those of `hosts` on which no further execution may start now."""
        if self._host_limit is None:
            return set()
        with self.access.reading() as connection:
            return {host for host, number in reading.running_on(connection, hosts).items() if number >= self._host_limit}

    # Questions

    def task(self, task_id: int) -> Task:
        with self.access.reading() as connection:
            return reading.task(connection, task_id)

    def task_of_flow_run(self, flow_run_id: uuid.UUID) -> Task | None:
        with self.access.reading() as connection:
            return reading.task_of_flow_run(connection, flow_run_id)

    def line_of_flow_run(self, flow_run_id: uuid.UUID) -> TaskLine | None:
        """The task of a flow run as a line: what one asks again and again while it runs."""
        with self.access.reading() as connection:
            return reading.line_of_flow_run(connection, flow_run_id)

    def tasks(self, limit: int = 20, before: int | None = None) -> list[TaskLine]:
        """The newest tasks first, `limit` of them, older than the number `before`."""
        rows = self._lines.rows(self.access.engine, most=limit, before=_NEWEST if before is None else before)
        return [TaskLine._make(row) for row in rows]

    def executions(self, task_id: int, host: str | None = None) -> list[Execution]:
        """The executions of a task in the order of its target."""
        with self.access.reading() as connection:
            return reading.executions(connection, task_id, host)

    def attempts(self, task_id: int, host: str | None = None) -> list[Execution]:
        """Every attempt of a task, each as an execution that stands where the attempt left it; a host's first one first."""
        with self.access.reading() as connection:
            return reading.attempts(connection, task_id, host)

    def output(self, attempt_id: int) -> list[Piece]:
        """What is stored of an attempt's output, each stream in order."""
        with self.access.reading() as connection:
            return reading.output(connection, attempt_id)

    def row(self, execution: Execution) -> Row:
        """An execution with its output."""
        return row(execution, self.output(execution.attempt_id) if execution.attempt_id is not None else [])

    def recount(self, task_id: int) -> dict[ExecutionState, int]:
        """Count the executions of a task by state from the rows themselves."""
        with self.access.reading() as connection:
            return reading.recount(connection, task_id)


def _canceled_by(task: Task | OpenTask) -> str:
    return f"canceled by {task.cancel_requested_by}"
