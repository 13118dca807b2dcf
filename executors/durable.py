"""The durable run: a command whose output and end are kept on the host until we have them (executors/durable.sh).

A run is named by its attempt. Each verb is a session of its own, with the marks of the lifeline (executors/lifeline.py):

    start    as the lifeline, but the end of the session ends the command only `linger` seconds later, or never
    attach   makes sure that a run which has not started never will, and follows it from given offsets
    fence    the same without following
    cancel   ends the run
    ack      all is known here: the host forgets it, but for a tombstone against a late start
    state    what is known

While a session follows, it may say `at N`: what comes next stands at byte N of its stream; what lies between was left out. Its last
mark is the verdict: `exit CODE`; `ended REASON`, from the host; `void`: it has not started and never will; `running`; `acked`;
`lost REASON`.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

from executors.lifeline import Wrapper
from models.values import Attempt, Stream

ACK = b"ack\n"
CANCEL = b"cancel\n"

TEXTS = ("lifeline.sh", "durable.sh")


class Verb(StrEnum):
    """What is asked of the host."""

    START = "start"
    ATTACH = "attach"
    FENCE = "fence"
    CANCEL = "cancel"
    ACK = "ack"
    STATE = "state"


def wrapper(
    attempt: Attempt,
    verb: Verb,
    *,
    grace: float,
    linger: float | None = 0,
    timeout: float | None = None,
    limit: int = 64 * 1024 * 1024,
    offsets: Mapping[Stream, int] | None = None,
    tidies: bool = False,
) -> Wrapper:
    """The wrapper of one verb.

    `linger` is how many seconds the command goes on with nobody attached; None: for ever. `timeout` (seconds from the start) is
    for when nobody is there to apply it. `limit` is how many bytes of each stream the spool keeps: half from its start, half from
    its end. `offsets` is where `attach` goes on. `tidies`: the first run on a host, which looks whether others may write into the
    spool, and removes old tombstones.
    """
    offsets = offsets or {}
    values = {
        "ff_verb": verb.value,
        "ff_id": str(attempt.id),
        "ff_linger": "" if linger is None else str(math.ceil(linger)),
        "ff_timeout": "" if timeout is None else str(math.ceil(timeout)),
        "ff_limit": str(limit),
        "ff_grace_ticks": str(math.ceil(grace * 5)),
        "ff_from_out": str(offsets.get(Stream.STDOUT, 0)),
        "ff_from_err": str(offsets.get(Stream.STDERR, 0)),
        "ff_tidies": "1" if tidies else "",
    }
    return Wrapper(TEXTS, values, ">&5 2>&8", offsets, outlives=True)
