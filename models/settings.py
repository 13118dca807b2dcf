"""The settings: FLEETFLOW_* in the environment, then fleetflow.toml in FLEETFLOW_HOME, then the defaults below."""

import ipaddress
import os
import re
import tomllib
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from models.errors import SettingsError
from models.names import is_loopback
from models.values import HostKeyPolicy, HubTls, OnDisconnect

PREFIX = "FLEETFLOW_"
_NOT_SETTINGS = ("FLEETFLOW_HOME", "FLEETFLOW_SECRET_", "FLEETFLOW_ATTEMPT")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise PydanticCustomError("pattern", "is not a regular expression: {reason}", {"reason": str(error)}) from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


def _is_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise PydanticCustomError("address", "is not an address to listen on: write 127.0.0.1, or 0.0.0.0 or :: for all") from None


def _is_url(text: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(text)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if is_safe and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment:
            return text.rstrip("/")
    raise PydanticCustomError("url", "is not an address that agents call: write https://HOST:PORT")


Address = Annotated[str, AfterValidator(_is_address)]
Url = Annotated[str, AfterValidator(_is_url)]


def find_home() -> Path:
    """The one folder in which a stack keeps everything: FLEETFLOW_HOME, or the user's data folder."""
    named = os.environ.get("FLEETFLOW_HOME")
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_data_dir("fleetflow"))


class Settings(BaseSettings):
    """All settings; `Settings.load()` reads them once, at the door of each process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    database_url: str = Field(
        default="", description="fleetflow's database, sqlite:// or postgresql://; default: fleetflow.db in FLEETFLOW_HOME"
    )
    prefect_api_url: str | None = Field(default=None, description="Prefect API to use instead of the local stack's own")
    prefect_api_auth: SecretStr | None = Field(default=None, description="auth string `user:password` of that Prefect API")
    work_pool: str = Field(default="fleetflow", description="Prefect work pool that the worker serves")
    ui_port: Port = Field(
        default=4200, description="port of the local stack's Prefect API and UI on 127.0.0.1; when not set, the next free one from 4200"
    )

    hub_host: Address = Field(default="127.0.0.1", description="address on which the hub listens; beyond loopback it speaks TLS")
    hub_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="port of the hub; 0: a free one, which stays the same when the stack is restarted"
    )
    hub_url: Url | None = Field(
        default=None, description="address of the hub as hosts reach it; default: from its host's name and its port"
    )
    hub_tls: HubTls = Field(
        default=HubTls.AUTO, description="TLS of the hub: on, off (on loopback alone), or auto: beyond loopback and where hub_cert is given"
    )
    hub_cert: Path | None = Field(
        default=None, description="certificate of the hub with its chain, in PEM; default: one that it makes for itself"
    )
    hub_key: Path | None = Field(default=None, description="private key of that certificate, in PEM; default: in the same file")

    approve_hosts: int | None = Field(
        default=None, ge=0, description="hosts above which a task waits for somebody's approval; default: none"
    )
    approve_pattern: Pattern | None = Field(
        default=None, description="regular expression; a task whose command it finds something in waits for approval; default: none"
    )
    approval_timeout: Seconds = Field(default=3600, description="seconds after which a task that nobody approved is canceled")
    confirm_hosts: int = Field(default=100, ge=0, description="hosts above which `fleetflow run` asks on a terminal to type their number")

    forks: int = Field(default=100, ge=1, description="hosts of a task that run at the same time")
    host_limit: int = Field(default=4, ge=1, description="commands that run on a host at the same time, of all tasks and workers")
    timeout: Seconds | None = Field(default=None, description="seconds a command may take on a host; default: no limit")
    connect_timeout: Seconds = Field(
        default=10, description="seconds a host has to accept the command; when not set, ConnectTimeout of ~/.ssh/config counts"
    )
    grace: Seconds = Field(default=2, description="seconds between TERM and KILL when a command is ended")
    beat_timeout: Seconds = Field(default=30, description="seconds of silence after which a host ends the command by itself")
    on_disconnect: OnDisconnect = Field(
        default=OnDisconnect.LINGER, description="what a host does with a running command when nobody is attached: end, linger or detach"
    )
    linger: Seconds = Field(default=30, description="seconds that a command goes on with nobody attached, with on_disconnect = linger")
    lost_after: Seconds = Field(default=300, description="seconds without a sign of its host after which a detached command counts as lost")
    output_limit: int = Field(
        default=1024 * 1024, ge=2, description="bytes kept of each stream of a host: half from its start, half from its end"
    )

    flow_runs: int = Field(default=4, ge=1, description="flow runs of a worker at the same time; others wait for their turn")
    drain_grace: float = Field(
        default=2, ge=0, allow_inf_nan=False, description="seconds that runs have to end by themselves when the worker is stopped"
    )
    lease: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=15, description="seconds without a sign of life after which a worker counts as dead, and what it ran is ended"
    )

    ssh_user: str | None = Field(default=None, description="SSH user; default: as ~/.ssh/config says")
    ssh_port: Port | None = Field(default=None, description="SSH port; default: as ~/.ssh/config says")
    ssh_identity: Path | None = Field(default=None, description="SSH private key that is offered first")
    ssh_password: SecretStr | None = Field(default=None, description="SSH password, also for keyboard-interactive")
    ssh_passphrase: SecretStr | None = Field(default=None, description="passphrase of the SSH private keys")
    ssh_host_key: HostKeyPolicy | None = Field(
        None, description="host keys: strict, accept-new or off; default: ~/.ssh/config, else strict"
    )
    ssh_config: Path = Field(default=Path("~/.ssh/config"), description="OpenSSH client configuration")
    ssh_idle: Seconds = Field(default=300, description="seconds an unused SSH connection stays open")
    ssh_connections: int = Field(default=5000, ge=1, description="SSH connections that stay open at most")

    become_password: SecretStr | None = Field(
        default=None, description="password for sudo, for tasks that become and name no secret for it"
    )

    @classmethod
    def load(cls) -> "Settings":
        """Read and check all settings; raises `SettingsError` naming the variable or the key."""
        _refuse_unknown_variables()
        try:
            return cls()
        except ValidationError as error:
            raise _explain(error) from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(str(find_home() / "fleetflow.toml"), str(error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, find_home() / "fleetflow.toml")

    @cached_property
    def home(self) -> Path:
        return find_home()

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL of fleetflow's database."""
        return self.database_url or f"sqlite:///{self.home / 'fleetflow.db'}"

    @cached_property
    def database_shown(self) -> str:
        """The database's URL without its password."""
        return without_password(self.database)


def without_password(url: str) -> str:
    """A database's URL as it may be shown; a password may also stand behind the `?`."""
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", url))


def source(key: str) -> str:
    """Where this setting comes from, or would: its variable, or the file and the key there."""
    variable = PREFIX + key.upper()
    return variable if variable in os.environ else f"{find_home() / 'fleetflow.toml'}: {key}"


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith(_NOT_SETTINGS):
            raise SettingsError(name, "there is no such setting; `fleetflow config show` lists them all")


def _explain(error: ValidationError) -> SettingsError:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    reason = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
    return SettingsError(source(key), reason)
