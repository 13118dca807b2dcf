"""Tasks for the pages to show, written through the store as a worker writes them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from models.records import Claim, Finished, Outcome, Piece, Printed, Started, TaskSpec
from models.states import ExecutionState as S
from models.store import Store
from models.values import Command, Stream


@dataclass
class Written:
    """A task under way. `ends` is of each host how it ends, with what it prints to stdout; the others go on."""

    store: Store
    claims: Mapping[str, Claim]

    @property
    def id(self) -> int:
        return next(iter(self.claims.values())).task_id

    def start(self, *hosts: str) -> None:
        self.store.write([Started(self.claims[host], time.time()) for host in hosts])

    def print(self, host: str, offset: int, data: bytes) -> None:
        self.store.write([Printed(self.claims[host], (Piece(Stream.STDOUT, offset, data),))])

    def end(self, host: str, state: S, data: bytes = b"", *, offset: int = 0, error: str | None = None) -> None:
        outcome = Outcome(state=state, exit_code={S.FAILED: 3, S.SUCCEEDED: 0}.get(state), error=error)
        pieces = (Piece(Stream.STDOUT, offset, data),) if data else ()
        was = S.QUEUED if state is S.UNREACHABLE else S.RUNNING
        self.store.write([Finished(self.claims[host], time.time(), was, outcome, pieces, {})])

    def close(self) -> None:
        self.store.close_task(self.id)


def begin(store: Store, *hosts: str, command: str = "true", created_by: str | None = None) -> Written:
    """A task on these hosts, of which none has started."""
    spec = TaskSpec(name=f"{command} on them", command=Command(script=command), target="@all", hosts=hosts, created_by=created_by)
    task = store.open_task(spec, "tests")
    return Written(store, {claim.host: claim for claim in store.claim(task.id, "tests")})
