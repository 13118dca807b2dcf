"""Becoming another user: sudo starts the wrapper itself, so that what watches and kills has the rights of what runs.

    call ->     <- asks                       password ->     <- entered     payload ->

The password is sent when sudo asks for it with the prompt that we gave it, and never otherwise: so no command can read it. The
payload is sent when the shell that sudo starts has said that it is there: so sudo cannot take it for a password. A second question
is answered by nobody: one wrong password is one failed attempt. Without a password sudo may not ask, and all is sent at once.

Between sudo and the wrapper stays a shell that only waits. Were the wrapper sudo's own child, sudo would stop itself when the
watcher stops the wrapper, and would never wake again.
"""

import secrets

from models.errors import UsageError

_KEPT = 16 * 1024  # bytes of what is said before the entry
_SHOWN = 300  # characters of a reason
# Free of ' (inside), ! and \, which tcsh and fish read in their own way even in single quotes.
READ_A_LINE = 'IFS= read -r ff_x;eval "$ff_x"'
# It must outlive all that may end the wrapper, says nothing of that end ("Killed"), and hands its own stderr on as it is.
_WAIT = """cd -- "$HOME" 2>/dev/null||cd /;trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
{{ setsid {sh} -c '{read}' 2>&9 9>&-;}} 9>&2 2>/dev/null;exit $?"""


class Sudo:
    """What is said with sudo on one host, until it has let us in. `opening` is sent first, then whatever `reply` gives."""

    def __init__(self, user: str, password: str | None, payload: bytes, *, sh: str = "/bin/sh") -> None:
        if password is not None and set(password) & set("\0\r\n"):
            raise UsageError("the become password holds a line break or a NUL byte, which sudo cannot read")
        self._password = password
        word = f"fleetflow-{secrets.token_hex(16)}"
        self._absent, self._called, self._entered = (f"{word} {what}\n".encode() for what in ("absent", "called", "entered"))
        self._prompt = f"{word} password:".encode()
        self._inside = _line(_WAIT.format(sh=sh, read=READ_A_LINE)) + payload
        self._said = b""
        self._asked = 0
        self._is_called = False
        self._reply = b""
        self.has_entered = False
        call = _line(_call(user, word, is_silent=password is None, sh=sh))
        self.opening = call + self._inside if password is None else call

    def feed(self, data: bytes) -> bytes:
        """Take what came on stderr; returns what came after the entry."""
        if self.has_entered:
            return data
        self._said = (self._said + data)[-_KEPT:]
        before, entered, after = self._said.partition(self._entered)
        self._follow(before)
        if not entered:
            return b""
        self.has_entered = True
        self._reply = b"" if self._password is None else self._inside
        return after

    def reply(self) -> bytes:
        """What is to be sent now."""
        reply, self._reply = self._reply, b""
        return reply

    @property
    def refusal(self) -> str | None:
        """Why there will be no entry, as soon as that is certain."""
        if self._asked > 1:
            return "sudo refuses: the password is wrong (it asked again)"
        if self._absent in self._said:
            return "sudo is not installed there, or not in the PATH of the login"
        return None

    @property
    def why_ended(self) -> str | None:
        """Why sudo has ended without letting us in; None when sudo is not to blame."""
        if self.has_entered or not self._is_called:
            return None
        lines = [line.strip() for line in self._said.decode(errors="backslashreplace").splitlines() if line.strip()]
        chosen = next((line for line in lines if line.startswith("sudo: ")), lines[0] if lines else "it said nothing")
        reason = chosen.removeprefix("sudo: ").replace(self._password or "\0", "***")[:_SHOWN]
        advice = "; no become password is set" if self._password is None and "password" in reason else ""
        return f"sudo refuses: {reason}{advice}"

    def _follow(self, said: bytes) -> None:
        """Keep what sudo has said since it was called, or since it asked last."""
        _, called, after = said.partition(self._called)
        if called:
            self._is_called, said = True, after
        while self._prompt in said:
            said = said.partition(self._prompt)[2]
            self._asked += 1
            if self._asked == 1 and self._password is not None:
                self._reply = f"{self._password}\n".encode("utf-8", "surrogateescape")
        self._said = said


def _call(user: str, word: str, *, is_silent: bool, sh: str) -> str:
    """Calls sudo. With -k it asks although it may remember us, and remembers nothing itself."""
    manner = "-n" if is_silent else f"-k -S -p {_quoted(f'{word} password:')}"
    enter = f"echo {word} entered >&2;{READ_A_LINE}"
    return (
        f"command -v sudo >/dev/null 2>&1||{{ echo {word} absent >&2;exit 1;}};echo {word} called >&2;"
        f"exec sudo {manner} -H -u {_quoted(user)} -- {sh} -c {_quoted(enter)}"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _line(text: str) -> bytes:
    return (text.replace("\n", ";") + "\n").encode()
