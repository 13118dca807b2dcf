"""The parts that the flows of one process share: store, recorder and executors. The only place that builds them."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from executors.agent.executor import ByAgent
from executors.local import Local
from executors.protocol import Executor
from executors.ssh.executor import Ssh
from flows.places import Places
from models.lease import Lease
from models.owner import Owner
from models.recorder import Recorder
from models.settings import Settings
from models.store import Store
from models.values import ExecutorKind


class UnderWay(Protocol):
    """A task that runs."""

    @property
    def outlives_us(self) -> bool:
        """Whether another worker could follow all that runs now to its end."""


@dataclass(frozen=True)
class Context:
    """What flows run with. One a process, so that connections stay open from run to run."""

    settings: Settings
    owner: Owner
    store: Store
    lease: Lease
    recorder: Recorder
    executors: dict[ExecutorKind, Executor]
    places: Places
    rollouts: dict[int, UnderWay] = field(default_factory=dict)  # by their tasks

    async def aclose(self) -> None:
        """Write what is left, and close every connection."""
        self.places.close()
        for executor in self.executors.values():
            await executor.aclose()
        await self.recorder.aclose()
        await asyncio.to_thread(self.lease.close)
        self.store.close()


_current: Context | None = None


def open_context(settings: Settings, owner: Owner) -> Context:
    """Build the process's context; raises `UnavailableError` when the database cannot be used."""
    global _current  # noqa: PLW0603 - Prefect calls flows with their parameters alone: what they share must be found from here
    store = Store.open(settings.database, host_limit=settings.host_limit)
    become_password = settings.become_password.get_secret_value() if settings.become_password else None
    _current = Context(
        settings=settings,
        owner=owner,
        store=store,
        lease=Lease(store, str(owner), settings.lease),
        recorder=Recorder(store, output_limit=settings.output_limit),
        executors={
            ExecutorKind.LOCAL: Local(grace=settings.grace, beat_timeout=settings.beat_timeout, become_password=become_password),
            ExecutorKind.SSH: Ssh(settings),
            ExecutorKind.AGENT: ByAgent(settings, store.access, str(owner)),
        },
        places=Places(store, settings.host_limit),
    )
    return _current


def current() -> Context:
    """The process's context; built on first use where no worker has done it."""
    if _current is not None:
        return _current
    settings = Settings.load()
    return open_context(settings, Owner.load(settings.home))


async def close_context() -> None:
    """Close the process's context, if there is one."""
    global _current
    if _current is not None:
        closing, _current = _current, None
        await closing.aclose()
