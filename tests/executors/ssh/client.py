"""Clients for chaos tests, each a process that may be killed: it runs one task on a fleet, or recovers what is left of it.

Called as `python -m tests.executors.ssh.client SSHD_FOLDER PORT`. Each line `HOSTS FOLDER` that it reads makes a client, a fork of a
process that has imported everything already; it says the client's process id, and its exit code once it has ended.
"""

import asyncio
import os
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select

from executors.attempt import carry_out
from executors.ssh.executor import Ssh
from models import database
from models.errors import LostError, NeverStartedError, UnreachableError
from models.recorder import Recorder
from models.records import Claim, Finished, Outcome, Piece, TaskSpec
from models.states import ExecutionState
from models.store import Store
from models.tables import AttemptRow, ExecutionRow, OutputRow
from models.values import Attempt, Command, Host, OnDisconnect, Result, Stream
from tests.executors.ssh.running import Recorded
from tests.servers.sshd import Sshd
from tests.witness import Witness

_LINES = 10
_LIMIT = 1024 * 1024


def witness_in(folder: Path) -> Witness:
    """What each host of the fleet runs."""
    body = f"i=0; while [ $i -lt {_LINES} ]; do echo line $i; i=$((i+1)); sleep 0.07; done"
    return Witness(folder / "witness", body, b"".join(b"line %d\n" % number for number in range(_LINES)), 3)


def open_store(folder: Path) -> Store:
    url = f"sqlite:///{folder / 'client.db'}"
    database.upgrade(url)
    return Store.open(url)


class _Client:
    def __init__(self, sshd: Sshd, folder: Path, hosts: list[Host]) -> None:
        self._store = open_store(folder)
        self._recorder = Recorder(self._store, output_limit=_LIMIT)
        self._ssh = Ssh(sshd.settings(linger=20, beat_timeout=20, grace=0.5))
        self._hosts = {host.name: host for host in hosts}
        self._command = Command(script=witness_in(folder).script, on_disconnect=OnDisconnect.LINGER)

    async def work(self) -> None:
        names = tuple(self._hosts)
        spec = TaskSpec(name="chaos", command=self._command, target="all", hosts=names, flow_run_id=uuid.UUID(int=1))
        task = self._store.open_task(spec, "here:home:1")
        await asyncio.gather(*(self._recover(claim, stored) for claim, stored in _running(self._store)))
        claims = self._store.claim(task.id, "here:home:1")
        await asyncio.gather(*(self._run(claim) for claim in claims))
        self._store.close_task(task.id)
        await self._ssh.aclose()
        await self._recorder.aclose()
        self._store.close()

    async def _run(self, claim: Claim) -> None:
        report = self._recorder.record(claim)
        host = self._hosts[claim.host]
        await report.finish(await carry_out(self._ssh, claim.attempt, host, self._command, report, connect_timeout=30))
        await self._ssh.ack(claim.attempt, host)

    async def _recover(self, claim: Claim, stored: Mapping[Stream, int]) -> None:
        sink = Recorded()
        outcome = await self._ask(claim, stored, sink)
        pieces = tuple(Piece(stream, stored[stream], bytes(data)) for stream, data in sink.streams.items() if data)
        self._store.write([Finished(claim, time.time(), ExecutionState.RUNNING, outcome, pieces, sink.gaps)])
        await self._ssh.ack(claim.attempt, self._hosts[claim.host])

    async def _ask(self, claim: Claim, stored: Mapping[Stream, int], sink: Recorded) -> Outcome:
        try:
            ended = await self._ssh.recover(claim.attempt, self._hosts[claim.host], self._command, stored, sink)
        except NeverStartedError:
            return Outcome(state=ExecutionState.CANCELED, error="never started")
        except (LostError, UnreachableError) as error:
            return Outcome(state=ExecutionState.LOST, error=error.reason)
        if isinstance(ended, Result):
            state = ExecutionState.FAILED if ended.exit_code else ExecutionState.SUCCEEDED
            return Outcome(state=state, exit_code=ended.exit_code)
        return Outcome(state=ended.state, exit_code=ended.exit_code, error=ended.reason)


def _running(store: Store) -> list[tuple[Claim, dict[Stream, int]]]:
    """What a dead client has left, with the bytes that are stored of it."""
    query = select(AttemptRow, ExecutionRow.host, ExecutionRow.task_id).join(ExecutionRow, ExecutionRow.attempt_id == AttemptRow.id)
    with store.access.reading() as connection:
        rows = connection.execute(query.where(ExecutionRow.state == ExecutionState.RUNNING)).all()
        sizes = select(OutputRow.attempt_id, OutputRow.stream, func.sum(func.length(OutputRow.data)))
        stored = {(row[0], row[1]): row[2] for row in connection.execute(sizes.group_by(OutputRow.attempt_id, OutputRow.stream))}
    return [
        (
            Claim(
                task_id=row.task_id,
                execution_id=row.execution_id,
                attempt_id=row.id,
                host=row.host,
                attempt=Attempt(id=uuid.UUID(row.uuid), number=row.number, epoch=row.epoch),
            ),
            {stream: stored.get((row.id, stream), 0) for stream in Stream},
        )
        for row in rows
    ]


def _work(sshd: Sshd, folder: Path, hosts: int) -> int:
    """What a fork does; returns its exit code."""
    try:
        asyncio.run(_Client(sshd, folder, sshd.fleet(hosts)).work())
    except BaseException:  # nothing may get out: below are the loop and the output of the process that forked us
        traceback.print_exc()
        return 1
    return 0


def _serve(folder: Path, port: int) -> None:
    for number, line in enumerate(sys.stdin):
        hosts, _, here = line.rstrip("\n").partition(" ")
        client = os.fork()
        if not client:
            made = [folder] * (1000 + number)  # a number that names no configuration of anybody else
            sshd = Sshd(folder, port, None, {}, folder / "id_ed25519", made)  # type: ignore[arg-type]  # it runs elsewhere
            os._exit(_work(sshd, Path(here), int(hosts)))
        print(client, flush=True)  # noqa: T201 - for whoever started us
        print(os.waitstatus_to_exitcode(os.waitpid(client, 0)[1]), flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
