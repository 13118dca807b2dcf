"""The lifeline: what is said with a host about one command, without any input or output of its own.

The host gets one constant command line, and everything else over stdin, the *payload*: a wrapper in POSIX sh
(executors/lifeline.sh), the values it needs, script and stdin. The wrapper prepares all that can fail, prints a *ready mark*
on both streams, and waits. `GO` starts the command. From then on our end of its stdin is its lifeline: when that ends, or
brings no `BEAT` for `beat_timeout` seconds, the wrapper ends the whole process tree: TERM, at most `grace` seconds, KILL.
When the command ends by itself the wrapper prints an *end mark* with the exit code on both streams.

    payload ->          <- ready          GO, BEAT, BEAT ... ->          <- exit 0

A command that becomes another user has a dialogue with sudo before all this (executors/become.py), and more to send than the
payload: `reply`.

So output is exact and complete at the end mark (what a noisy profile printed before, and what a child left behind prints
after, is not the command's), and the death of the wrapper without an end mark, after our EOF, proves that the tree is gone.

Runs over one connection may share a clock for the silence: `Session.share_clock`. A session that says `server PID` before it is ready
stays after its end mark, and ends that process, the connection's server, when no beat comes to it any more. Those that lean on it
trust their lifeline's end alone, until they are told that they are `ALONE`.

A mark is RS, a nonce that the command cannot know, a word and a newline. Nothing but `REMOTE_LINE` is ever in an argument list,
with sudo its own call, and with a script file its arguments.
"""

import math
import re
import secrets
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib import resources

from executors import script
from executors.become import READ_A_LINE, Sudo
from models.errors import UsageError
from models.values import Attempt, Command, Stream

REMOTE_LINE = f"exec /bin/sh -c '{READ_A_LINE}'"
LOCAL_ARGV = ("/bin/sh", "-c", READ_A_LINE)
GO = b"go\n"
BEAT = b"\n"
ALONE = b"alone\n"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OURS = ("FLEETFLOW_ATTEMPT", "FLEETFLOW_SCRIPT", "ff_")
_READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})  # in one shell or another
_STRING_LIMIT = 128 * 1024  # MAX_ARG_STRLEN of Linux: no longer `NAME=value` can be given to a program
_SCRIPT_LIMIT = 96 * 1024  # bytes, so that it is no longer than that, with its name
_INLINE = 8192  # bytes of a script that the shell may read one by one (0.35 ms a KiB)
_PIPED = 4096  # bytes that any pipe takes without a reader
_PLAIN = frozenset(b"\t ,./:;=@_" + string.ascii_letters.encode() + string.digits.encode())

_REFUSALS = {
    "folder": "~/.fleetflow/spool on the host cannot be written, or is not ours alone "
    "(full, read-only, another user's, writable for others, a symbolic link)",
    "taken": "this attempt was started before",
    "proc": "the host has no /proc, which a durable run needs; use --on-disconnect end",
    "spool": "no room for the command's stdin or long script: $TMPDIR (or /tmp) on the host is full, or may not be written to",
    "dev_fd": "a script file needs /dev/fd or /proc on the host",
    "interpreter": "its interpreter {interpreter} is not there, or is no program",
    "cwd": "its working directory {cwd!r} does not exist there, or may not be entered",
}


@dataclass(frozen=True)
class Wrapper:
    """What runs around the command: texts in sh, each of which may replace functions of those before, and values for them."""

    texts: tuple[str, ...] = ("lifeline.sh",)
    values: Mapping[str, str] = field(default_factory=dict)
    streams: str = "2>&4"  # of the command, beyond what it has
    offsets: Mapping[Stream, int] = field(default_factory=dict)  # of the first bytes that will come
    outlives: bool = False  # its shell: what is still to come comes after that has ended


_LIFELINE = Wrapper()


class Session:
    """What is sent to a host for one command, and what its answer means.

    `env` replaces `command.env`, secrets revealed; `password` is sudo's. `grace` and `beat_timeout` are seconds.
    Raises `UsageError` for what no shell can be given: NUL bytes, names that are no names.
    """

    def __init__(
        self,
        attempt: Attempt,
        command: Command,
        *,
        env: Mapping[str, str],
        grace: float,
        beat_timeout: float,
        password: str | None = None,
        sh: str = "/bin/sh",
        wrapper: Wrapper = _LIFELINE,
    ) -> None:
        nonce = secrets.token_hex(16)
        self._named = {"cwd": command.cwd, "interpreter": command.interpreter[0] if command.interpreter else ""}
        self.outlives_shell = wrapper.outlives
        mark = b"\x1e" + nonce.encode()
        self._stdout, self._stderr = (_Reader(mark, wrapper.offsets.get(stream, 0)) for stream in Stream)
        self._values = {
            "ff_nonce": nonce,
            "ff_marker": f"FLEETFLOW_ATTEMPT={attempt.id}",
            "ff_sh": sh,
            "ff_cwd": _path(command.cwd),
            "ff_grace": f"{grace:g}",
            "ff_whole_grace": str(math.ceil(grace)),
            "ff_beat": str(math.ceil(beat_timeout)),
            "ff_stays": "",
            "ff_leans": "",
            **wrapper.values,
        }
        check_environment(command, env)
        self._build = partial(_payload, sh, self._values, {**env, "FLEETFLOW_ATTEMPT": str(attempt.id)}, command, wrapper)
        self._sudo = Sudo(command.become, password, self._build(), sh=sh) if command.become is not None else None

    @cached_property
    def payload(self) -> bytes:
        """What is sent first."""
        return self._sudo.opening if self._sudo else self._build()

    @property
    def can_share_clock(self) -> bool:
        """Behind sudo the wrapper is another user's, and what outlives its session has a clock of its own."""
        return self._sudo is None and not self.outlives_shell

    def share_clock(self, *, server: int | None) -> None:
        """Before the payload is sent: lean on the session that has said `server`; with None, offer to stay for others to lean on."""
        self._values |= {"ff_stays": "1"} if server is None else {"ff_leans": str(server)}

    @property
    def server(self) -> int | None:
        """The process id that the session ends in silence once its own run is over; None: the session ends with the run."""
        return self._stdout.server

    @property
    def step(self) -> str:
        """What is waited for until it is ready."""
        return "waiting for sudo" if self._sudo else "starting the shell"

    @property
    def ready(self) -> bool:
        """Whether only `GO` is missing."""
        return self._stdout.word == self._stderr.word == "ready"

    @property
    def refusal(self) -> str | None:
        """Why the host could not prepare the command; nothing has started then."""
        for word in (self._stdout.word, self._stderr.word):
            if word.startswith("refused "):
                return _REFUSALS[word.removeprefix("refused ")].format_map(self._named)
        return self._sudo.refusal if self._sudo else None

    @property
    def why_ended(self) -> str | None:
        """Why it has ended before it was ready, where that was not the shell's doing."""
        return self._sudo.why_ended if self._sudo else None

    @property
    def verdict(self) -> str | None:
        """The last mark, such as `exit 0`, as soon as all output of the command has been fed."""
        word = self._stdout.word
        return word if word == self._stderr.word and self._stdout.is_over else None

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 + n for signal n, as soon as all output of the command has been fed."""
        verdict = self.verdict
        return int(verdict.removeprefix("exit ")) if verdict and verdict.startswith("exit ") else None

    @property
    def offsets(self) -> Mapping[Stream, int]:
        """How far each stream has been fed, in bytes from its start."""
        return {Stream.STDOUT: self._stdout.offset, Stream.STDERR: self._stderr.offset}

    @property
    def last_words(self) -> bytes:
        """The end of what was said on stderr before the ready mark: why the shell did not come that far."""
        return self._stderr.noise

    def feed(self, stream: Stream, data: bytes) -> bytes:
        """Take what came on a stream, in chunks of any size; returns the command's own output in it."""
        return b"".join(piece for piece in self.pieces(stream, data) if isinstance(piece, bytes))

    def pieces(self, stream: Stream, data: bytes) -> Iterator[bytes | int]:
        """The same with its gaps: a number stands for so many bytes that the host has left out."""
        if stream is Stream.STDOUT:
            return self._stdout.feed(data)
        return self._stderr.feed(self._sudo.feed(data) if self._sudo else data)

    def reply(self) -> bytes:
        """What is to be sent beyond the payload, after what was fed last."""
        return self._sudo.reply() if self._sudo else b""


class _Reader:
    """Cuts the output of the command out of one stream."""

    def __init__(self, mark: bytes, offset: int) -> None:
        self._mark = mark
        self._held = b""  # may be the beginning of a mark
        self.offset = offset  # of the next byte of output
        self.word = ""  # of the last mark: "ready", "refused REASON", "exit CODE" and the like
        self.noise = b""
        self.server: int | None = None

    @property
    def is_over(self) -> bool:
        return self.word not in {"", "ready"}

    def feed(self, data: bytes) -> Iterator[bytes | int]:
        data = self._held + data if self._held else data
        while not self.is_over:
            before, mark, after = data.partition(self._mark)
            word, newline, rest = after.partition(b"\n")
            if not newline:
                before, self._held = (before, mark + after) if mark else self._hold_back(before)
                yield from self._own(before)
                return
            yield from self._own(before)
            yield from self._heed(word.decode("ascii", "replace"))
            data = rest

    def _heed(self, word: str) -> Iterator[int]:
        if word.startswith("server "):
            self.server = int(word.removeprefix("server "))
            return
        if not word.startswith("at "):
            self.word = word
            return
        place = int(word.removeprefix("at "))
        if place > self.offset:
            yield place - self.offset
        self.offset = place

    def _own(self, data: bytes) -> Iterator[bytes]:
        if self.word == "ready" and data:
            self.offset += len(data)
            yield data
        elif data:
            self.noise = (self.noise + data)[-1024:]

    def _hold_back(self, data: bytes) -> tuple[bytes, bytes]:
        """Split off what may be the beginning of a mark that goes on in the next chunk."""
        start = data.find(self._mark[:1], max(0, len(data) - len(self._mark)))
        while start >= 0 and not self._mark.startswith(data[start:]):
            start = data.find(self._mark[:1], start + 1)
        return (data, b"") if start < 0 else (data[:start], data[start:])


_END_OF_TEXT = "#end"
# A simple command, which shells start with vfork, behind the command's environment. It takes its stderr by itself: what our own
# shell says of its end ("Killed") is not the command's.
_RUN_SCRIPT = (
    """FLEETFLOW_SCRIPT="$ff_script" "$ff_sh" -c 'exec {streams} 3<&- 4>&- 5>&- 8>&-;eval "unset FLEETFLOW_SCRIPT;$FLEETFLOW_SCRIPT"'"""
)


def _read_whole(size: int) -> str:
    """Reads the wrapper by what costs least in this shell: a block of bash's, a file of dash's and busybox's, a program for the others.

    Behind sudo the pipe may be another user's: it can be read, but not opened by its name.
    """
    block = f'LC_ALL=C IFS= read -rN {size} ff_t 2>/dev/null||ff_t=$(head -c {size});eval "$ff_t"'
    return (
        f'if [ "$BASH_VERSION" ];then {block};'
        'elif [ -p /dev/stdin ]&&[ -r /dev/stdin ]&&! [ "$KSH_VERSION$YASH_VERSION$ZSH_VERSION" ];then ff_sources=1;. /dev/stdin;'
        f'else eval "$(head -c {size})";fi'
    )


# Reads no byte too many, as what is spooled must not be: by the shell, byte by byte.
_READ_LINES = f'ff_t=;while IFS= read -r ff_l&&[ "$ff_l" != "{_END_OF_TEXT}" ];do ff_t="$ff_t$ff_n$ff_l";done;eval "$ff_t"'


def _payload(sh: str, values: Mapping[str, str], env: Mapping[str, str], command: Command, wrapper: Wrapper) -> bytes:
    way = _script_way(command, wrapper.streams) if command.interpreter else _way(command.script, command.stdin)
    prepare = f"{way.prepare}\numask {command.umask}" if command.umask else way.prepare
    lines = [f"{name}={_quote(value)}" for name, value in values.items()]
    environment = " ".join(f"{name}={_quote(value)}" for name, value in env.items())
    run = way.run.format(command=f"{environment} {way.program or _RUN_SCRIPT.format(streams=wrapper.streams)}")
    lines += [f"ff_prepare() {{\n{prepare}\n}}", f"ff_run() {{\n{run}\n}}"]
    text = _encode("\n".join([*lines, *map(_text, wrapper.texts), "ff_main", ""]))  # the last line starts it all
    return _boot(sh, values, way, len(text)).encode() + text + (_encode(f"{_END_OF_TEXT}\n") + way.spooled if way.spooled else b"")


def _boot(sh: str, values: Mapping[str, str], way: "_Way", size: int) -> str:
    """What reads a wrapper of `size` bytes: the shell takes this byte by byte, and it is short where the shell is known already."""
    if values["ff_leans"] and not way.spooled:
        # Unless /bin/sh has become another shell meanwhile, which would wait there for ever.
        return f'ff_n=${{IFS#??}};if [ "$BASH_VERSION" ];then eval "$(head -c {size})";else . /dev/stdin;fi\n'
    reading = _READ_LINES if way.spooled else _read_whole(size)
    # dropbear gives its sessions no process group of their own.
    return f"kill -0 -$$ 2>/dev/null||exec setsid {sh} -c '{READ_A_LINE}';{READ_A_LINE}\nff_n=${{IFS#??}} ff_sources=;{reading}\n"


@dataclass(frozen=True, slots=True)
class _Way:
    """How script and stdin travel: what is done in sh before the ready mark and at the start, and what a file on the host takes."""

    prepare: str
    run: str = "{command}"
    spooled: bytes = b""
    program: str = ""  # what runs, if not the command's own sh


def _way(text: str, stdin: bytes) -> _Way:
    size = len(_encode(text))
    prepare = f"ff_script={_quote(text)}"
    if size <= _SCRIPT_LIMIT and not stdin:
        return _Way(prepare)
    if size <= _SCRIPT_LIMIT and len(stdin) <= _PIPED:
        return _Way(prepare, f"printf '{_printf_pattern(stdin)}' | {{command}}")
    if size > _INLINE:
        return _spool_both(_encode(text), stdin)
    return _Way(f"{prepare}\n{_spool(len(stdin))}", "{command} <&6 6<&-", stdin)


def _script_way(command: Command, streams: str) -> _Way:
    """The script as a file of its own, stdin as with a command."""
    text = _encode(command.script)
    program, prepare = script.run(command, _quote, streams), script.prepare(command, len(text), _quote)
    if not command.stdin:
        return _Way(prepare, "{command}", text, program)
    if len(command.stdin) <= _PIPED:
        return _Way(prepare, f"printf '{_printf_pattern(command.stdin)}' | {{command}}", text, program)
    return _Way(f"{prepare}\n{_spool(len(command.stdin))}", "{command} <&6 6<&-", text + command.stdin, program)


def _spool(size: int) -> str:
    """What makes the wrapper take so many bytes, in a file whose name nobody can foresee."""
    return f"ff_spool {size} {secrets.token_hex(8)}"


def _spool_both(text: bytes, stdin: bytes) -> _Way:
    """The script first, stdin behind it: the command's own sh reads the one and leaves the other, where it stands, as its stdin."""
    sentinel = secrets.token_hex(8)  # missing if that read was short; it also keeps the newlines at the end
    size = len(text) + len(sentinel)
    load = f" bs={size} count=1 2>/dev/null){'' if stdin else ';exec </dev/null'}"
    check = (
        f';case $ff_x in *{sentinel}) eval "unset ff_x;${{ff_x%{sentinel}}}";; *) echo "fleetflow: the script was cut" >&2;exit 126;; esac'
    )
    # dd by its full name: the command's own PATH may not have it.
    prepare = f"{_spool(size + len(stdin))}\nff_dd=$(command -v dd) || ff_refuse spool\nff_script='ff_x=$('$ff_dd'{load}{check}'"
    return _Way(prepare, "{command} <&6 6<&-", text + sentinel.encode() + stdin)


@cache
def _text(name: str) -> str:
    lines = (resources.files("executors") / name).read_text("ascii").splitlines()
    return "\n".join(line.strip() for line in lines if line and not line.lstrip().startswith("#"))


def check_environment(command: Command, env: Mapping[str, str]) -> None:
    """Raise `UsageError` for what no shell can be given: NUL bytes, names that are no names or not free, values that are too long."""
    _refuse_nul(command, env)
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"environment variable {name!r}: a name has letters, digits and _")
        if name in _READ_ONLY or name.startswith(_OURS):
            raise UsageError(f"environment variable {name}: this name is taken by the shell or by fleetflow; choose another one")
        if len(name) + len(_encode(value)) + 2 > _STRING_LIMIT:
            raise UsageError(f"environment variable {name}: longer than the 128 KiB that Linux lets a program have; use stdin")


def _refuse_nul(command: Command, env: Mapping[str, str]) -> None:
    texts = {"the command": command.script, "the working directory": command.cwd or ""}
    texts |= {f"environment variable {name}": value for name, value in env.items()}
    texts |= {f"argument {number}": argument for number, argument in enumerate(command.arguments, 1)}
    for what, text in texts.items():
        if "\0" in text:
            raise UsageError(f"{what}: a NUL byte cannot be given to a shell")


def _path(cwd: str | None) -> str:
    """A path that `cd` cannot take for `-`."""
    return f"./{cwd}" if cwd and not cwd.startswith("/") else cwd or ""


def _quote(text: str) -> str:
    """One word of sh on one line; the variable ff_n holds a newline."""
    quoted = text.replace("'", "'\"'\"'").replace("\n", "'\"$ff_n\"'")
    return f"'{quoted}'"


def _printf_pattern(data: bytes) -> str:
    """What makes printf print these bytes: plain where that is safe, else octal."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
