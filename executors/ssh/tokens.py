"""The tokens of ssh_config(5): %h and its kin, ${NAME} and ~ in values."""

import hashlib
import os
import pwd
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from executors.ssh.options import Options
from models.errors import SettingsError
from models.sshconfig import Line


def local_user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def replace(text: str, tokens: Mapping[str, str], line: Line | None, *, environment: bool = False) -> str:
    """Replace each %x, and ${NAME} where OpenSSH does; raises `SettingsError` for one that does not exist."""

    def find(found: re.Match[str]) -> str:
        if found["name"] is not None:
            return os.environ[found["name"]] if environment else found[0]
        return "%" if found["token"] == "%" else tokens[found["token"]]  # noqa: S105 - a percent sign, no password

    try:
        return re.sub(r"%(?P<token>.?)|\$\{(?P<name>[^}]+)\}", find, text, flags=re.DOTALL)
    except KeyError as error:
        reason = f"{text!r}: there is no token or variable {error.args[0]!r}"
        raise (line.error(reason) if line else SettingsError("ssh", reason)) from None


class Tokens:
    """The values of all tokens for one host, as far as the options are known."""

    def __init__(self, options: Options, name: str, hostname: str) -> None:
        self._lines = options.lines
        here = socket.gethostname()
        self.values = {
            "L": here.partition(".")[0],
            "d": str(Path("~").expanduser()),
            "h": hostname,
            "i": str(os.getuid()),
            "j": options.proxy_jump[-1].host if options.proxy_jump else "",
            "k": options.host_key_alias or name,
            "l": here,
            "n": name,
            "p": str(options.port or 22),
            "u": local_user(),
        }

    def set_user(self, user: str) -> None:
        """From here on there are %r and %C: a user name may be made of the other tokens."""
        self.values["r"] = user
        parts = "".join(self.values[token] for token in "lhprj")
        self.values["C"] = hashlib.sha1(parts.encode(), usedforsecurity=False).hexdigest()

    def expand(self, text: str, option: str, only: str | None = None) -> str:
        """Replace tokens, those in `only` alone if given, and else environment variables too."""
        values = self.values if only is None else {token: self.values[token] for token in only}
        return replace(text, values, self._lines.get(option), environment=only is None)

    def expand_path(self, text: str, option: str) -> Path:
        line = self._lines.get(option)
        home = line.expand_home(text) if line else Path(text).expanduser()
        return Path(self.expand(str(home), option))
