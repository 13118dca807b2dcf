"""Workers of one pool and one database, each in a home of its own, which are killed and replaced."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.records import Task
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.sshd import Sshd
from tests.servers.worker import Worker


@dataclass
class Crew:
    """At least one worker lives at any time between two rounds.

    Of the death of a worker its successor in the same home knows at once, by its lock; one of another home by its lease alone.
    """

    server: PrefectServer
    folder: Path
    settings: dict[str, str]
    living: list[Worker]

    def hire(self) -> None:
        """Start a worker in a new home, and wait until it is ready."""
        first = self.living[0] if self.living else None
        home = self.folder / f"home-{uuid.uuid4().hex[:8]}"
        home.mkdir(parents=True)
        new = Worker(self.server, home, settings=self.settings, **({"pool": first.pool} if first else {}))
        new.start()
        self.living.append(new)

    def prepare(self, *, by_lease: bool) -> None:
        """See that the next death is judged by the lease, or that it is not."""
        if by_lease and len(self.living) == 1:
            self.hire()

    # What `tests.dying` asks for

    def store(self) -> Store:
        return Store.open(self.living[0].database)

    def create_run(self, **parameters: object) -> uuid.UUID:
        return uuid.UUID(self.living[0].begin(**parameters))

    def kill_worker(self, task: Task) -> None:
        """The successor starts at once where nobody else lives."""
        assert task.owner is not None
        incarnation = task.owner.rpartition(":")[2]
        dying = next(worker for worker in self.living if (worker.home / "workers" / incarnation).exists())
        dying.kill()
        if len(self.living) > 1:
            self.living.remove(dying)
        else:
            dying.start()

    def ended(self, flow_run_id: uuid.UUID, seconds: float) -> dict[str, Any]:
        return self.living[0].end_of(str(flow_run_id), seconds)

    def close(self) -> None:
        while self.living:
            worker = self.living.pop()
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()


@contextmanager
def run_crew(server: PrefectServer, sshd: Sshd, folder: Path, lease: float) -> Iterator[Crew]:
    """A crew of one, whose fleet is all of 127.0.0.0/8 on this sshd."""
    folder.mkdir(parents=True)
    config = folder / "ssh_config"
    config.write_text(
        f"Host 127.*\n  Port {sshd.port}\n  User root\n  IdentityFile {sshd.identity}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {sshd.known_hosts}\n  GlobalKnownHostsFile none\n"
    )
    database = f"sqlite:///{folder / 'shared.db'}"
    settings = {"FLEETFLOW_DATABASE_URL": database, "FLEETFLOW_LEASE": str(lease), "FLEETFLOW_SSH_CONFIG": str(config)}
    crew = Crew(server, folder, settings, [])
    try:
        crew.hire()
        yield crew
    finally:
        crew.close()
