"""A command as it goes to agents: one body for all hosts of a task, sealed in the database where it holds secrets."""

import base64
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping

from executors.lifeline import check_environment
from models.deliveries import Body
from models.errors import UsageError
from models.sealing import Seal
from models.secrets import find_password, names, reveal, values_of
from models.settings import Settings
from models.values import Command

_KEPT = 16  # commands whose bodies are kept for their next hosts
_TIMEOUT_SLACK = 5.0  # seconds that an agent lets us apply a timeout first
_LIMIT = 16 * 1024 * 1024  # bytes of a body


class Composer:
    """Makes bodies. Belongs to one event loop."""

    def __init__(self, settings: Settings, seal: Seal) -> None:
        self._settings = settings
        self._seal = seal
        self._kept: OrderedDict[int, tuple[Command, Body]] = OrderedDict()

    def compose(self, command: Command) -> Body:
        """The body of a command; raises `SecretError`, and `UsageError` for what cannot be sent."""
        known = self._kept.get(id(command))
        if known is not None and known[0] is command:
            self._kept.move_to_end(id(command))
            return known[1]
        body = self._body(command)
        self._kept[id(command)] = command, body
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return body

    def _body(self, command: Command) -> Body:
        setting = self._settings.become_password
        env = reveal(command.env)
        password = find_password(command, setting.get_secret_value() if setting else None)
        check_environment(command, env)
        data = json.dumps(self._message(command, env, password)).encode()
        if len(data) > _LIMIT:
            raise UsageError(f"script and stdin are {len(data)} bytes together as they are sent; an agent takes {_LIMIT}")
        is_secret = bool(names(command.env) or values_of(command.env) or (command.become and password))
        return Body(uuid.uuid4(), self._seal.close(data) if is_secret else data, is_secret)

    def _message(self, command: Command, env: Mapping[str, str], password: str | None) -> dict[str, object]:
        return {
            "script": command.script,
            "interpreter": list(command.interpreter),
            "arguments": list(command.arguments),
            "env": dict(env),
            "cwd": command.cwd,
            "stdin_b64": base64.b64encode(command.stdin).decode(),
            "become": command.become,
            "become_password": password if command.become else None,
            "umask": command.umask,
            "timeout": None if command.timeout is None else command.timeout + _TIMEOUT_SLACK,
            "grace": self._settings.grace,
            "output_limit": self._settings.output_limit,
        }
