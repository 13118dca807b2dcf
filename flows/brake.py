"""Says when no further host of a task may be started: its failure limit, its deadline, or somebody's word."""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from models.errors import HeldError
from models.policy import Policy
from models.states import ExecutionState

_T = TypeVar("_T")
_FAILURES = frozenset({ExecutionState.FAILED, ExecutionState.TIMED_OUT, ExecutionState.UNREACHABLE, ExecutionState.LOST})


class Brake:
    """Once `reason` is set it stays: what runs goes on, what has not started never will. Belongs to one event loop."""

    def __init__(self, policy: Policy, counts: Mapping[ExecutionState, int], *, ends_at: float | None = None) -> None:
        """`counts` are those of the task as it begins or is resumed; `ends_at` is its deadline in the loop's time."""
        self.reason: str | None = None
        self.ends_at = ends_at
        self._policy = policy
        self._counted = _FAILURES - {ExecutionState.UNREACHABLE} if policy.ignore_unreachable else _FAILURES
        self._hosts = sum(counts.values())
        self._allowed = policy.allowed(self._hosts)
        self._failed = 0
        self._on = asyncio.Event()
        self._add(sum(counts[state] for state in self._counted))

    @property
    def deadline(self) -> str:
        return f"the task's deadline of {self._policy.deadline:g} s" if self._policy.deadline else ""

    def count(self, state: ExecutionState) -> None:
        """Take in how a host has ended, after its last try."""
        if state in self._counted:
            self._add(1)

    def stop(self, reason: str) -> None:
        """Let no further host start."""
        if self.reason is None:
            self.reason = reason
            self._on.set()

    def check(self) -> None:
        """Raise `HeldError` when no host may be started."""
        if self.reason is not None:
            raise HeldError(self.reason)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stop at the deadline, while inside."""
        if self.ends_at is None:
            yield
            return
        timer = asyncio.get_running_loop().call_at(self.ends_at, self._pass_deadline)
        if self.ends_at <= asyncio.get_running_loop().time():
            self._pass_deadline()
        try:
            yield
        finally:
            timer.cancel()

    async def unless(self, waited_for: Awaitable[_T]) -> _T | None:
        """Wait for something, but no longer than until the brake is on; then it is canceled, and the answer is None."""
        waiting = asyncio.ensure_future(waited_for)
        stopped = asyncio.ensure_future(self._on.wait())
        try:
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            stopped.cancel()
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})

    def _pass_deadline(self) -> None:
        self.stop(f"{self.deadline} has passed")

    def _add(self, failures: int) -> None:
        self._failed += failures
        if self._allowed is not None and self._failed > self._allowed:
            limit = f"more than the {self._allowed} allowed" if self._allowed else "and none was allowed to"
            self.stop(f"{self._failed} of {self._hosts} {'host' if self._hosts == 1 else 'hosts'} failed, {limit}")
