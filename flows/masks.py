"""What must not be shown of a run on a host, should it be printed there: all that we send to get in, to become another user, and to run."""

from contextlib import suppress

from models.credentials import Credentials
from models.errors import SecretError
from models.secrets import find_password, values_of
from models.settings import Settings
from models.values import Command, ExecutorKind, Host


def values(settings: Settings, command: Command, host: Host | None) -> list[str]:
    """The secret values of a run, those in its environment revealed."""
    found = [*values_of(command.env), _of_sudo(settings, command), *(_of_login(settings, host) if host is not None else ())]
    return [value for value in found if value]


def _of_sudo(settings: Settings, command: Command) -> str | None:
    if command.become is None:
        return None
    with suppress(SecretError):  # then the run has none either
        return find_password(command, settings.become_password.get_secret_value() if settings.become_password else None)
    return None


def _of_login(settings: Settings, host: Host) -> tuple[str | None, ...]:
    """What SSH logs in with. An agent never gets it, and late output of agents is masked by nobody."""
    if host.executor not in {None, ExecutorKind.SSH}:
        return ()
    if isinstance(host.login, Credentials):
        return host.login.password, host.login.passphrase
    configured = (settings.ssh_password, settings.ssh_passphrase)
    return tuple(secret.get_secret_value() for secret in configured if secret is not None)
