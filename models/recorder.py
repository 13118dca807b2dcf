"""Carries what runs report to the store, in groups: one thread commits whenever it is free.

Nothing counts as reported before it is committed. Output alone may wait, at most a second, and rides along with
whatever is committed sooner.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from models.errors import TransitionError
from models.groups import answer, patiently
from models.masking import Mask
from models.output import Capture
from models.records import Claim, Entry, Finished, Outcome, Printed, Started
from models.states import ExecutionState
from models.store import Store
from models.values import ExecutorKind, Stream

_GROUP = 500  # entries a commit takes at most
_OUTPUT_WAIT = 1.0  # seconds that output may wait for company
_PATIENCE = 60.0  # seconds that a locked or full database is tried again


@dataclass(frozen=True, slots=True)
class _Pending:
    entry: Entry
    done: asyncio.Future[bool]


class Recorder:
    """Groups entries of many runs into few commits. `aclose` writes what is left."""

    def __init__(self, store: Store, *, output_limit: int) -> None:
        self._store = store
        self._output_limit = output_limit
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._talking: dict[int, tuple[Claim, Capture]] = {}  # captures with output that waits
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def record(self, claim: Claim, secrets: Iterable[str] = (), executor: ExecutorKind | None = None) -> "Recording":
        """The sink of one attempt by this executor; the `secrets` are masked in all that it takes."""
        return Recording(self, claim, self._output_limit, tuple(secrets), executor)

    async def put(self, entry: Entry) -> bool:
        """Write an entry; returns once it is committed. False: somebody else had moved the row, nothing was written."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.put(_Pending(entry, done))
        return await done

    def has_output(self, claim: Claim, capture: Capture) -> None:
        """Take the capture's output along within a second. Any thread."""
        with self._lock:
            self._talking[claim.attempt_id] = (claim, capture)

    async def aclose(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        last_output = time.monotonic()
        while True:
            group, closing = self._next_group(last_output + _OUTPUT_WAIT)
            printed = self._collect_output()
            last_output = time.monotonic()
            if group or printed:
                self._commit(group, printed)
            if closing:
                return

    def _next_group(self, until: float) -> tuple[list[_Pending], bool]:
        group: list[_Pending] = []
        try:
            item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            while item is not None:
                group.append(item)
                if len(group) == _GROUP:
                    return group, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _collect_output(self) -> list[Printed]:
        with self._lock:
            talking, self._talking = self._talking, {}
        taken = ((claim, capture, capture.take()) for claim, capture in talking.values())
        return [Printed(claim, pieces, capture.is_masked) for claim, capture, pieces in taken if pieces]

    def _commit(self, group: list[_Pending], printed: list[Printed]) -> None:
        # Output goes first: a piece taken here must not come after the end of its own attempt.
        entries = [*printed, *(pending.entry for pending in group)]
        try:
            written = patiently(lambda: self._store.write(entries), _PATIENCE)[len(printed) :]
        except Exception as error:  # noqa: BLE001 - whatever it is, each waiting run must hear of it
            answer((pending.done, error) for pending in group)
        else:
            answer(zip((pending.done for pending in group), written, strict=True))


class Recording:
    """Takes what happens to one attempt; the sink of the executors."""

    def __init__(
        self, recorder: Recorder, claim: Claim, output_limit: int, secrets: Sequence[str] = (), executor: ExecutorKind | None = None
    ) -> None:
        self._recorder = recorder
        self._executor = executor
        self._masks = {stream: Mask(secrets) for stream in Stream} if secrets else {}
        self._masking = threading.Lock()
        self._claim = claim
        self._capture = Capture(output_limit, claim.offsets or {})
        self._state = ExecutionState.QUEUED if claim.offsets is None else ExecutionState.RUNNING

    @property
    def has_started(self) -> bool:
        """Whether the command may have started."""
        return self._state is ExecutionState.RUNNING

    async def starting(self) -> None:
        """Commit `queued -> running`; raises `TransitionError` when the execution is not ours any more."""
        self._state = ExecutionState.RUNNING  # also when a cancel falls into the commit: it is under way, and the end comes after it
        if not await self._recorder.put(Started(self._claim, time.time(), self._executor)):
            raise TransitionError(ExecutionState.QUEUED, ExecutionState.RUNNING)

    def output(self, stream: Stream, data: bytes) -> None:
        """Take a chunk of output. Any thread."""
        if not self._masks:
            self._add(stream, data)
            return
        with self._masking:
            shown = self._masks[stream].feed(data)
            self._capture.is_masked |= self._masks[stream].has_masked
            self._add(stream, shown)

    def _add(self, stream: Stream, data: bytes) -> None:
        if data and self._capture.add(stream, data):
            self._recorder.has_output(self._claim, self._capture)

    def left_out(self, stream: Stream, size: int) -> None:
        """So many bytes of a stream never came. Any thread."""
        self._capture.skip(stream, size)

    async def finish(self, outcome: Outcome) -> bool:
        """Commit the end; False when somebody else had ended the execution."""
        return await self._recorder.put(self.ended(outcome))

    def ended(self, outcome: Outcome) -> Finished:
        """What is to be written of the end, with the rest of the output."""
        with self._masking:
            for stream, mask in self._masks.items():
                self._add(stream, mask.end())
        pieces, cut = self._capture.finish()
        return Finished(self._claim, time.time(), self._state, self.masked(outcome), pieces, cut)

    def masked(self, outcome: Outcome) -> Outcome:
        """An outcome whose error shows no secret either."""
        if not self._masks or outcome.error is None:
            return outcome
        return replace(outcome, error=self._masks[Stream.STDOUT].text(outcome.error))

    def last_lines(self, lines: int = 5) -> list[str]:
        """The end of stderr, or of stdout when stderr is empty: what explains a failure."""
        return self._capture.last_lines(Stream.STDERR, lines) or self._capture.last_lines(Stream.STDOUT, lines)
