"""Every error that fleetflow raises, grouped by who can act on it.

FleetflowError
├── UsageError                what was typed or configured is wrong           exit code 2
│   ├── TargetError           a target expression that cannot be read
│   │   └── UnknownNameError  a host, group or tag that is not in the inventory
│   ├── InventoryError        hosts.yaml or hosts.d/*.yaml
│   ├── SettingsError         fleetflow.toml or FLEETFLOW_*
│   ├── SecretError           `secret:NAME` that the worker does not have
│   ├── CredentialsError      credentials that Prefect does not have, or that open nothing
│   ├── NotFoundError         a task number, a host
│   ├── AgentStateError       an agent that cannot be approved, rejected or revoked as it stands
│   ├── RequestKeyError       an idempotency key that stands for another task
│   └── JoinError             an agent that may not join
│       └── NameTakenError    its name belongs to another machine
├── NoHostsError              a right target without hosts                    exit code 3
├── NothingToRetryError       a task without hosts of the kind to run again   exit code 3
├── UnavailableError          Prefect, worker or database cannot be reached   exit code 4
│   └── DatabaseVersionError  the database is older or newer than this program
├── AuditError                the audit trail was changed                     exit code 1
├── ExecutorError             one host, one attempt; becomes a state, never a traceback
│   ├── UnreachableError      it never started
│   │   ├── AuthenticationError
│   │   └── HostKeyError
│   ├── NeverStartedError     the host has proved that it did not start, and never will
│   └── LostError             it may have started; nobody knows its outcome
│       ├── ConnectionLostError
│       ├── SpoolLostError
│       └── EndNotConfirmedError
├── LeaseLostError            this worker was taken for dead, and may write nothing any more
├── TaskTakenError            a task of the REST API that its flow run may not take any more
├── HeldError                 a host that must not be started any more: its task has been stopped
└── TransitionError           a move that the table of states forbids: a bug, or somebody else was faster
"""

from pathlib import Path


class FleetflowError(Exception):
    """The root of all errors that fleetflow raises itself."""

    exit_code = 1


class UsageError(FleetflowError):
    """What was typed or configured is wrong; the message says what to change."""

    exit_code = 2


class TargetError(UsageError):
    """A target expression that cannot be read."""

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"target {_shown(target)}: {reason}")


class UnknownNameError(TargetError):
    """A host, group or tag that nobody knows, in any operand of a target."""

    def __init__(self, target: str, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        is_plain = kind == "host" and not set(name) & set("*?")
        advice = f", `user@{name}` names a plain host" if is_plain else ""
        super().__init__(target, f"unknown {kind} {_shown(name)}; `fleetflow host list` shows what is known{advice}")


class InventoryError(UsageError):
    """An inventory file that cannot be read."""

    def __init__(self, path: Path, reason: str, line: int | None = None) -> None:
        self.path = path
        self.reason = reason
        self.line = line
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {reason}")


class SettingsError(UsageError):
    """A setting that is wrong, with the place it came from."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__(f"{source}: {reason}")


class SecretError(UsageError):
    """`secret:NAME` names a secret that neither the worker's environment nor Prefect has."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"secret {name!r} is not set; make a Prefect Secret block of that name, or set FLEETFLOW_SECRET_{name} where the worker starts"
            " (`fleetflow down`, then `fleetflow up -d`)"
        )


class CredentialsError(UsageError):
    """The block that somebody names as credentials is not there, or is of no use."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"credentials {_shown(name)}: {reason}")


class NotFoundError(UsageError, LookupError):
    """Something asked for by number or name that does not exist."""

    def __init__(self, kind: str, name: object, *, look: str | None = None) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {name}; `fleetflow {look or f'{kind} list'}` shows what there is")


class AgentStateError(UsageError):
    """An agent that cannot become what somebody wants."""

    def __init__(self, name: str, state: str, wanted: str) -> None:
        self.name = name
        self.state = state
        self.wanted = wanted
        super().__init__(f"agent {name} is {state}, and cannot become {wanted}; `fleetflow agent list` shows them all")


class RequestKeyError(UsageError):
    """The key of a request has created another task than it asks for now."""

    def __init__(self, task_id: int) -> None:
        self.task_id = task_id
        super().__init__(f"this idempotency key has created task {task_id}, which is another one; give each request a key of its own")


class JoinError(UsageError):
    """An agent that may not join."""

    def __init__(self, reason: str = "the join token is unknown, expired or used up; `fleetflow agent token` makes a new one") -> None:
        self.reason = reason
        super().__init__(reason)


class NameTakenError(JoinError):
    """The name belongs to an agent on another machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the name {name} belongs to an agent on another machine; `fleetflow agent revoke {name}` frees it")


class NoHostsError(FleetflowError):
    """A right target that matches no host."""

    exit_code = 3

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(f"target {_shown(target)} matches no host")


class NothingToRetryError(FleetflowError):
    """A task none of whose hosts is of the kind that was to run again."""

    exit_code = 3

    def __init__(self, task_id: int, kinds: str) -> None:
        self.task_id = task_id
        super().__init__(f'nothing to retry: no host of task {task_id} is {kinds}; all of them run again with --all, or kinds ["all"]')


class UnavailableError(FleetflowError):
    """Something fleetflow needs cannot be reached."""

    exit_code = 4

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class DatabaseVersionError(UnavailableError):
    """The database has tables of another version than this program."""

    def __init__(self, url: str, found: str | None, expected: str, *, newer: bool) -> None:
        self.found = found
        self.expected = expected
        self.newer = newer
        advice = "install that version of fleetflow" if newer else "run `fleetflow db upgrade`"
        relation = "a newer fleetflow" if newer else "an older fleetflow"
        super().__init__(f"database {url}", f"made by {relation} (version {found}, this program has {expected}); {advice}")


class AuditError(FleetflowError):
    """The audit trail is not as it was written."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"audit trail: {reason}")


class ExecutorError(FleetflowError):
    """One attempt on one host could not be carried out or followed to its end."""

    def __init__(self, host: str, reason: str) -> None:
        self.host = host
        self.reason = reason
        super().__init__(f"{host}: {reason}")


class UnreachableError(ExecutorError):
    """The command has certainly not started."""


class AuthenticationError(UnreachableError):
    """The host accepts none of our credentials."""


class HostKeyError(UnreachableError):
    """The host's key is unknown, changed or revoked."""


class NeverStartedError(ExecutorError):
    """The host has proved that the command did not start, and has seen to it that it never will under this attempt."""


class LostError(ExecutorError):
    """The command may have started, and its outcome is not known."""


class ConnectionLostError(LostError):
    """The connection, or the remote wrapper, ended before it told the outcome."""


class SpoolLostError(LostError):
    """The host has no record of the end: it was rebooted, the wrapper was killed, or the record is gone."""


class EndNotConfirmedError(LostError):
    """After a timeout or a cancel the host did not confirm that the command has ended."""


class LeaseLostError(FleetflowError):
    """Another process has taken this worker for dead and ended what it ran."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        super().__init__(
            f"worker {owner} slept longer than its lease and was taken for dead; its runs have been ended, and it must start anew"
        )


class TaskTakenError(FleetflowError):
    """A task that was created for a flow run has ended before it, or another run has it."""

    def __init__(self, task_id: int, reason: str | None) -> None:
        self.task_id = task_id
        super().__init__(f"task {task_id} {reason or 'was taken by another flow run'}, before it began")


class HeldError(FleetflowError):
    """A host that must not be started any more, because its task has been stopped."""


class TransitionError(FleetflowError):
    """A move that the table of states forbids."""

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new
        super().__init__(f"a move from {old} to {new} is not allowed")


def _shown(text: str) -> str:
    """What somebody typed, short and without control characters."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


_SHOWN = 100
