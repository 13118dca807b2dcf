"""Follows a task from the command line until it has ended: by the worker's word, and by what the store shows."""

import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleetflow import doorbell, stack
from fleetflow.client import Prefect
from fleetflow.results import to_stderr, to_stdout
from fleetflow.text import inert
from models.errors import UnavailableError
from models.records import TaskLine
from models.settings import Settings

if TYPE_CHECKING:  # importing the store costs a third of a second, which passes while the worker works
    from models.records import Task
    from models.rows import Row
    from models.store import Store

_LOOK = 0.1  # seconds between two looks at the store
_ASK = 2.0  # seconds between two questions to Prefect, for runs that the worker will never tell about

OnEnded = Callable[["Row"], None]
OnProgress = Callable[[TaskLine], None]
OnQuestion = Callable[[TaskLine, str], None]


class Follower:
    """Follows one flow run; may be asked again after an interruption, and then goes on where it was."""

    def __init__(
        self, settings: Settings, prefect: Prefect, flow_run_id: uuid.UUID, *, on_waiting: Callable[[str], None] = lambda _: None
    ) -> None:
        self.flow_run_id = flow_run_id
        self._on_waiting = on_waiting
        self._waits_for = ""
        self._settings = settings
        self._prefect = prefect
        self._over = threading.Event()  # the flow run has ended
        self._answer: dict[str, Any] = {}
        self._seen: set[int] = set()  # executions that have been told
        self._last: TaskLine | None = None
        self._asked = 0  # the last question to people that has been told
        threading.Thread(target=self._listen, daemon=True).start()

    def ended_at_once(self, seconds: float, on_ended: OnEnded) -> TaskLine | None:
        """The task, when it ends within `seconds` and its results came with the worker's word: no database is opened for it."""
        self._over.wait(seconds)
        if "rows" not in self._answer:
            return None
        for row in self._answer["rows"]:
            on_ended(row)
        return TaskLine(**self._answer["task"])

    def until_ended(
        self,
        store: "Store",
        on_ended: OnEnded,
        on_progress: OnProgress,
        stop: Callable[[], bool] = lambda: False,
        on_question: OnQuestion = lambda _line, _question: None,
    ) -> TaskLine | None:
        """Return the ended task, or None when the flow run ended without one.

        Tells of every host that ends, of all progress, and of what the task asks people.

        Returns early once `stop` says so. Raises `UnavailableError` when the flow run has been deleted, or the stack has ended.
        """
        asked = time.monotonic()
        while True:
            over = self._over.is_set()
            line = store.line_of_flow_run(self.flow_run_id)
            if line is not None and line != self._last:
                self._tell(store, line, on_ended)
                on_progress(line)
                self._last = line
            if over or stop() or (line is not None and line.is_final):
                return line
            if line is not None:
                self._tell_question(store, line, on_question)
            if time.monotonic() - asked > _ASK:
                asked = time.monotonic()
                self._ask()
            self._over.wait(_LOOK)

    def _tell(self, store: "Store", line: TaskLine, on_ended: OnEnded) -> None:
        if line.done == len(self._seen):
            return
        for execution in store.executions(line.id):
            if execution.state.is_final and execution.id not in self._seen:
                self._seen.add(execution.id)
                on_ended(store.row(execution))

    def _tell_question(self, store: "Store", line: TaskLine, on_question: OnQuestion) -> None:
        found = store.open_approval(line.id)
        if found is not None and found.id > self._asked:
            self._asked = found.id
            on_question(line, found.question)

    def _ask(self) -> None:
        if stack.is_gone(self._settings):
            task = f"task {self._last.id}" if self._last else f"flow run {self.flow_run_id}"
            raise UnavailableError(
                "the local stack", f"has ended before {task}; `fleetflow up` starts it again, and ends or follows what it left"
            )
        try:
            found = self._prefect.flow_run(self.flow_run_id)
        except UnavailableError:
            return  # the task goes on without Prefect's server, and so do we
        if found is None:
            raise UnavailableError("Prefect", "the flow run has been deleted")
        if found.is_final:
            self._over.set()
        elif found.is_waiting and found.message != self._waits_for:
            self._waits_for = found.message
            self._on_waiting(f"flow run {self.flow_run_id} {inert(found.message[0].lower() + found.message[1:])}")

    def _listen(self) -> None:
        answer = doorbell.watch(self._settings.home, self.flow_run_id)
        if answer is not None:  # else there is no worker on this machine, and Prefect is asked instead
            self._answer = answer
            self._over.set()


class Lines:
    """Progress for a file or a pipe: a line now and then."""

    _EVERY = 5.0  # seconds
    out = staticmethod(to_stdout)
    err = staticmethod(to_stderr)

    def __init__(self) -> None:
        self._next = time.monotonic() + self._EVERY

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, task: TaskLine) -> None:
        if time.monotonic() >= self._next and not task.is_final:
            self._next = time.monotonic() + self._EVERY
            self.err(f"task {task.id}: {counts(task)}")


class Bar:
    """Progress for a terminal: one line that is drawn again."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._progress = Progress(*columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._line = self._progress.add_task("waiting for the worker", total=None, counts="")
        self.out = self.err if sys.stdout.isatty() else to_stdout

    def err(self, line: str) -> None:
        """Print above the bar."""
        self._console.print(line)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, task: TaskLine) -> None:
        self._progress.update(self._line, description=f"task {task.id}", total=task.hosts, completed=task.done, counts=counts(task))


def counts(task: "Task | TaskLine") -> str:
    """`3 of 100 done, 1 failed, 20 running`."""
    extra = [
        f"{number} {state}" for state, number in task.counts.items() if number and state.value not in {"pending", "queued", "succeeded"}
    ]
    return ", ".join([f"{task.done} of {task.hosts} done", *extra])
