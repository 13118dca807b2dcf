"""The witness of a run, and what must hold whatever was killed, cut or full.

A witness is a file on the host to which a command appends a line at its start and one before its end, each with the id of its
attempt. What we believe of an attempt is an `Account`; `complaints` compares the two.
"""

import re
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from models.records import Execution
from models.states import ExecutionState
from models.store import Store
from models.tables import AttemptRow, ExecutionRow
from models.values import Attempt, Stream
from tests.executors.processes import describe, marked

# The closed list: why an outcome may be unknown.
LOST = re.compile(
    "the host was rebooted while the command ran"
    "|the wrapper and its supervisor were killed on the host"
    "|the spool is gone.*"
    "|(the connection was lost while the command ran|its worker died).*"
    "|its agent was revoked|not seen for .*"
    "|the host did not confirm within .* that the command has ended"
)
_SIGNAL = 128


@dataclass(frozen=True)
class Account:
    """What we believe of one attempt. `cut`: bytes of stdout that were left out on purpose."""

    attempt: uuid.UUID
    state: ExecutionState
    exit_code: int | None = None
    error: str | None = None
    stdout: bytes = b""
    cut: int = 0


@dataclass(frozen=True)
class Witness:
    """The file, and the one command that writes it."""

    path: Path
    body: str = "echo one; echo two"
    stdout: bytes = b"one\ntwo\n"
    code: int = 3

    @property
    def script(self) -> str:
        """A command that prints `stdout` and exits with `code`, seen by this witness."""
        return f'echo "start $FLEETFLOW_ATTEMPT" >>{self.path}; {self.body}; echo "end $FLEETFLOW_ATTEMPT" >>{self.path}; exit {self.code}'

    def complaints(self, accounts: Iterable[Account], *, may_go_on: bool = False) -> list[str]:
        """What does not hold; nothing, when all is well. `may_go_on`: with detached runs processes may be left."""
        seen = Counter(self.path.read_text().split("\n") if self.path.exists() else ())
        found = [f"{account.attempt}: {text} ({account})" for account in accounts for text in self._about(account, seen)]
        if not may_go_on:
            found += [f"left behind: {describe(pid)}" for account in accounts for pid in marked(Attempt(id=account.attempt))]
        return found

    def _about(self, account: Account, seen: Counter[str]) -> list[str]:
        starts, ends = seen[f"start {account.attempt}"], seen[f"end {account.attempt}"]
        state, code = account.state, account.exit_code
        by_itself = account.error is None and state in {ExecutionState.SUCCEEDED, ExecutionState.FAILED}
        claims = {
            "started twice": starts <= 1 and ends <= starts,
            "not terminal": state.is_final,
            "called unreachable, and has started": state is not ExecutionState.UNREACHABLE or not starts,
            "called never started, and has": account.error != "never started" or not starts,
            "ended by itself, and did not start": not by_itself or bool(starts),
            "wrong exit code": not by_itself or (code == self.code and ends == 1) or (code or 0) > _SIGNAL,
            "succeeded with an exit code": (state is ExecutionState.SUCCEEDED) == (code == 0),
            "bytes differ": self._bytes_agree(account, whole=by_itself and code == self.code),
            "lost for no known reason": state is not ExecutionState.LOST or bool(LOST.fullmatch(account.error or "")),
        }
        return [text for text, holds in claims.items() if not holds]

    def _bytes_agree(self, account: Account, *, whole: bool) -> bool:
        if account.cut:
            return len(account.stdout) + account.cut <= len(self.stdout)
        return account.stdout == self.stdout if whole else self.stdout.startswith(account.stdout)


def of_verdict(attempt: Attempt, verdict: str, stdout: bytes) -> Account:
    """What a host's verdict means."""
    word, _, rest = verdict.partition(" ")
    state = {
        "void": ExecutionState.UNREACHABLE,
        "lost": ExecutionState.LOST,
        "exit": ExecutionState.SUCCEEDED if rest == "0" else ExecutionState.FAILED,
        "ended": ExecutionState.CANCELED,
    }.get(word, ExecutionState.RUNNING)
    error = {
        "lost killed": "the wrapper and its supervisor were killed on the host",
        "lost rebooted": "the host was rebooted while the command ran",
    }.get(verdict, verdict)
    return Account(attempt.id, state, int(rest) if word == "exit" else None, None if word == "exit" else error, stdout)


def of_task(store: Store, task_id: int) -> list[Account]:
    """What is stored of a task's last attempts. Of earlier ones it says that they have not started: only those are followed by more."""
    query = select(AttemptRow.id, AttemptRow.uuid, ExecutionRow.attempt_id == AttemptRow.id)
    query = query.join(ExecutionRow, ExecutionRow.id == AttemptRow.execution_id).where(ExecutionRow.task_id == task_id)
    with store.access.reading() as connection:
        rows = connection.execute(query).all()
    last = {attempt: uuid.UUID(text) for attempt, text, is_last in rows if is_last}
    earlier = [Account(uuid.UUID(text), ExecutionState.UNREACHABLE) for _, text, is_last in rows if not is_last]
    return [*(_account(store, execution, last[execution.attempt_id or 0]) for execution in store.executions(task_id)), *earlier]


def _account(store: Store, execution: Execution, attempt: uuid.UUID) -> Account:
    pieces = store.output(execution.attempt_id) if execution.attempt_id else []
    stdout = b"".join(piece.data for piece in pieces if piece.stream is Stream.STDOUT)
    return Account(attempt, execution.state, execution.exit_code, execution.error, stdout, execution.cut.get(Stream.STDOUT, 0))


def miscounts(store: Store, task_id: int) -> list[str]:
    """Where a task's counters differ from its rows."""
    counts, recount = store.task(task_id).counts, store.recount(task_id)
    return [] if counts == recount else [f"counters say {counts}, rows {recount}"]
