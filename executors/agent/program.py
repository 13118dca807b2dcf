"""The agent of fleetflow: fetches the commands of one host from the hub, runs them, and keeps what became of them until the hub has it.

One file that can be copied to any Linux host: the standard library only, Python 3.8 and later.

    program.py join      enrols the host with a join token
    program.py run       the service; SIGTERM ends it, and leaves its commands running
    program.py status    what it holds
    program.py start     runs the service in the background; stop ends it, leave also removes what it keeps

A command has two processes of ours beside it, which outlive the service:

    service   speaks with the hub, keeps the journal
    keeper    owns the command's spool: takes its output and writes its end
    runner    has the rights of the user who runs the command: prepares it, starts it, ends its tree

The service finds them again by files. In STATE/spool/ATTEMPT, in the order in which they appear:

    control           a FIFO that the keeper reads: "go", "cancel". As long as somebody reads it, the keeper lives
    ready             all that can fail harmlessly has been done
    go                "run" or "void"; whoever links it has started the command, or has fenced it off for ever
    stdout.N          output from byte N on; the first `limit` bytes of a stream, and pieces of about its last `limit` bytes
    end               how it ended

No command line holds anything of a command: its text, environment, stdin and passwords travel through anonymous files and sockets.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pwd
import re
import select
import signal
import socket
import stat
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, NamedTuple, NoReturn

VERSION = "0.1.0"
PROTOCOL = 1

STREAMS = ("stdout", "stderr")
Message = Dict[str, Any]

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DAY = 24 * 3600.0
_MIB = 1024 * 1024


class RefusedError(Exception):
    """A command that has certainly not started, and why."""


class UsageError(Exception):
    """What was typed or configured is wrong; exit code 2."""


_PREFIX = "fleetflow-agent: "


def say(text: str) -> None:
    """Tell whoever watches the service, in one line."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{_PREFIX}{text}\n")
        sys.stderr.flush()


# --- Files ---


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in there survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of ours whole, or not at all."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    new.replace(path)
    sync_folder(path.parent)


def read_word(path: Path) -> str:
    """A small file in one word; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def boot_id() -> str:
    """What changes with each start of the machine."""
    return read_word(Path("/proc/sys/kernel/random/boot_id"))


def anonymous_file(folder: str | Path, data: bytes) -> int:
    """A file without a name that holds this, to be read from its start."""
    path = Path(folder, f".fleetflow-{os.urandom(16).hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    try:
        write_all(fd, data)
    except OSError:
        os.close(fd)
        raise
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def find_program(name: str, path: str) -> str | None:
    """Where a program is."""
    places = (f"{folder}/{name}" for folder in path.split(":"))
    return next((place for place in places if os.access(place, os.X_OK) and Path(place).is_file()), None)


def waiting_bytes(fd: int) -> int:
    """How much a pipe holds."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0])


def encode(text: str) -> bytes:
    """Text as the hub sends it: bytes that are no UTF-8 come as surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise RefusedError("the command holds text that is neither UTF-8 nor plain bytes") from None


# --- Processes ---


class Process(NamedTuple):
    """What proc(5) says of one."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    born: int


def look_up(pid: int) -> Process | None:
    """A process that lives; None for a zombie too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def all_processes() -> dict[int, Process]:
    found = (look_up(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  # the names are all we need, often
    return {process.pid: process for process in found if process}


class Tree:
    """What a command has started and what still lives: by its group, by descent, by its mark in the environment, by its scope.

    Who looks is never a part of it, nor is what is above him: keeper and runner are in the scope, too.
    """

    def __init__(self, attempt: str, group: int = 0, runner: int = 0) -> None:
        self._mark = f"FLEETFLOW_ATTEMPT={attempt}".encode()
        self._scope = f"/{scope_of(attempt)}".encode() if _MANAGER.exists() else b""
        self._group = group
        self._runner = runner

    def alive(self) -> list[Process]:
        everything = all_processes()
        ours = {1, self._runner, *_above(os.getpid(), everything)}
        return [process for process in everything.values() if process.pid not in ours and self._has(process, everything)]

    def _has(self, process: Process, everything: dict[int, Process]) -> bool:
        if self._group and self._group in (process.group, process.session):
            return True
        return self._descends(process, everything) or self._is_marked(process.pid) or self._is_in_scope(process.pid)

    def _descends(self, process: Process, everything: dict[int, Process]) -> bool:
        """The runner adopts orphans, so that a double fork does not get away either."""
        return bool(self._runner) and self._runner in _above(process.parent, everything)

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def _is_in_scope(self, pid: int) -> bool:
        try:
            return bool(self._scope) and self._scope in Path(f"/proc/{pid}/cgroup").read_bytes()
        except OSError:
            return False

    def kill(self, patience: float = 5.0) -> bool:
        """End all of it at once; whether nothing is left."""
        until = time.monotonic() + patience
        while True:
            left = self.alive()
            for process in left:
                send_signal(process, signal.SIGKILL)
            if not left or time.monotonic() > until:
                return not left
            time.sleep(0.02)


def _above(pid: int, everything: dict[int, Process]) -> set[int]:
    """A process and what it descends from."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        pid = everything[pid].parent if pid in everything else 0
    return found


def send_signal(process: Process, number: int) -> None:
    """To this very process, not to a later one of the same number."""
    now = look_up(process.pid)
    if now and now.born == process.born:
        with contextlib.suppress(OSError):
            os.kill(process.pid, number)


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind (prctl(2)); without it their marks must do."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


# --- A scope of systemd ---

_MANAGER = Path("/run/systemd/private")  # where root speaks with systemd itself, whether there is a bus or not
_SLICE = "system-fleetflow.slice"  # all commands together weigh as one service
_MOVE = 10.0  # seconds that systemd has; while it reads its units anew it hears nothing
_SCOPE_END = 10_000_000  # microseconds from TERM to KILL when it is stopped: no command may hold up a reboot for long


def scope_of(attempt: str) -> str:
    """The unit in which a command runs."""
    return f"fleetflow-{attempt}.scope"


def enter_scope(attempt: str) -> None:
    """Have systemd put this process into a scope of its own, where all that it starts is born. Raises `OSError` where that is not possible.

    Limits are the host's: files in /etc/systemd/system/fleetflow-.scope.d count for each command, in system-fleetflow.slice.d for all.
    """
    name = scope_of(attempt)
    properties = [
        ("Description", ("s", f"fleetflow command {attempt}")),
        ("Slice", ("s", _SLICE)),
        ("PIDs", ("au", (0,))),  # who asks
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TasksMax", ("t", (1 << 64) - 1)),
        ("TimeoutStopUSec", ("t", _SCOPE_END)),
        ("OOMPolicy", ("s", "continue")),  # what takes too much memory is killed alone; systemd before 253 may not know it
    ]
    with contextlib.closing(_Manager()) as manager:
        manager.connect()
        try:
            manager.start_unit(name, properties)
        except RefusedError:
            manager.start_unit(name, properties[:-1])
        manager.wait_for(lambda: name in read_word(Path("/proc/self/cgroup")))


class _Manager:
    """systemd, as far as we speak with it: one method of D-Bus, over a socket of its own."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_MOVE)
        self._answers = self._socket.makefile("rb")

    def connect(self) -> None:
        self._socket.connect(str(_MANAGER))
        who = str(os.geteuid()).encode().hex()
        self._socket.sendall(f"\0AUTH EXTERNAL {who}\r\nBEGIN\r\n".encode())
        if not self._answers.readline().startswith(b"OK "):
            raise ConnectionError("it does not let us in")

    def start_unit(self, name: str, properties: Iterable[tuple[str, tuple[str, Any]]]) -> None:
        """Make a unit for this boot, and have it started. Raises `RefusedError`, and `OSError` where there is no answer."""
        body = _marshal(("s", "s", "a(sv)", "a(sa(sv))"), (name, "fail", properties, ()))
        where = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "StartTransientUnit"
        header = [*zip((1, 2, 3), zip("oss", where)), (8, ("g", "ssa(sv)a(sa(sv))"))]
        order = "l" if sys.byteorder == "little" else "B"
        message = _marshal((*"yyyyuu", "a(yv)"), (ord(order), 1, 0, 1, len(body), 1, header))
        self._socket.sendall(message + bytes(-len(message) % 8) + body)
        kind, said = self._hear()
        while kind not in (2, 3):  # the rest are signals
            kind, said = self._hear()
        if kind == 3:
            raise RefusedError(said[4:].rstrip(b"\0").decode("utf-8", "replace"))

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Until that is so, which may be at each signal. Raises `OSError` when it takes too long."""
        while not is_so():
            self._hear()

    def _hear(self) -> tuple[int, bytes]:
        """The kind and the body of the next message."""
        head = self._answers.read(16)
        if len(head) < 16:
            raise ConnectionError("it has hung up")
        _, kind, _, _, size, _, fields = struct.unpack("=cBBBIII", head)
        rest = self._answers.read(fields + -fields % 8 + size)
        return kind, rest[len(rest) - size :]

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


_ALIGNED = {"u": 4, "t": 8, "s": 4, "o": 4, "a": 4, "(": 8}


def _marshal(kinds: Iterable[str], values: Iterable[Any], at: int = 0) -> bytes:
    """Values of these types as they stand in a message, from its byte `at` on (the specification of D-Bus, "Marshaling")."""
    data = b""
    for kind, value in zip(kinds, values):
        data += bytes(-(at + len(data)) % _ALIGNED.get(kind[0], 1))
        place = at + len(data)
        if kind in "yut":
            data += struct.pack("=" + {"y": "B", "u": "I", "t": "Q"}[kind], value)
        elif kind in "so":
            data += struct.pack("=I", len(value.encode())) + value.encode() + b"\0"
        elif kind == "g":
            data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            data += _marshal(("g", value[0]), (value[0], value[1]), place)
        elif kind[0] == "(":
            data += _marshal(kind[1:-1], value, place)
        else:
            begin = place + 4
            begin += -begin % _ALIGNED.get(kind[1], 1)
            items = b""
            for item in value:
                items += _marshal((kind[1:],), (item,), begin + len(items))
            data += struct.pack("=I", len(items)) + bytes(begin - place - 4) + items
    return data


# --- A command, ready to be started ---

_SH = "/bin/sh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUN_TEXT = 'eval "unset FLEETFLOW_SCRIPT;$FLEETFLOW_SCRIPT"'
_RUN_LONG_TEXT = (
    "ff_x=$({cat} <&9);exec 9<&-;case $ff_x in *{end}) "
    'eval "unset ff_x;${{ff_x%{end}}}";; *) echo "fleetflow: the script was cut" >&2;exit 126;; esac'
)
_STRING_LIMIT = 128 * 1024  # MAX_ARG_STRLEN of Linux
_LONG = 96 * 1024  # bytes of a text that no variable takes any more, with some room
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_ROOM = "no room for the command's stdin or long script: $TMPDIR (or /tmp) on the host is full, or may not be written to"


def clean_environment() -> dict[str, str]:
    """What a command gets besides its own: as a login gives it, with language, time zone and TMPDIR of the service."""
    kept = {key: value for key, value in os.environ.items() if key in ("LANG", "TZ", "TMPDIR") or key.startswith("LC_")}
    try:
        user = pwd.getpwuid(os.geteuid())
    except KeyError:  # a number without a name, as in some containers
        return {**kept, "HOME": os.environ.get("HOME", "/"), "SHELL": _SH, "PATH": _PATH}
    kept.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name, SHELL=user.pw_shell or _SH, PATH=_PATH)
    return kept


class Launch:
    """All that can fail harmlessly, done: what is left is fork and exec. Raises `RefusedError`."""

    def __init__(self, spec: Message) -> None:
        _enter(spec.get("cwd"))
        self.umask = int(spec["umask"], 8) if spec.get("umask") else None
        self.script = -1
        self.stdin = -1
        self.environment = {encode(key): encode(value) for key, value in os.environ.items()}
        for name, value in spec.get("env", {}).items():
            if not _NAME.fullmatch(name) or "\0" in value:
                raise RefusedError(f"environment variable {name!r}: no system takes such a name or value")
            self.environment[name.encode()] = encode(value)
        self.environment[b"FLEETFLOW_ATTEMPT"] = spec["id"].encode()
        text = encode(spec["script"])
        if b"\0" in text:
            raise RefusedError("the command holds a NUL byte, which cannot be given to a shell")
        try:
            self.argv = self._as_script(spec, text) if spec.get("interpreter") else self._as_text(text)
            self._open_stdin(base64.b64decode(spec.get("stdin_b64") or ""))
        except OSError as error:
            raise RefusedError(f"{_NO_ROOM} ({error.strerror})") from error
        longest = max(map(len, [*self.argv, *(name + value for name, value in self.environment.items())]))
        if longest + 2 > _STRING_LIMIT:
            raise RefusedError("an argument or a variable is longer than the 128 KiB that Linux lets a program have; use stdin")

    def _as_text(self, text: bytes) -> list[bytes]:
        """Shell text: in a variable that it does not get to see, or behind a descriptor when it is long."""
        if len(text) <= _LONG:
            self.environment[b"FLEETFLOW_SCRIPT"] = text
            return [_SH.encode(), b"-c", _RUN_TEXT.encode()]
        end = os.urandom(16).hex()  # missing if the reading was short; it also keeps the newlines at the end
        self.script = anonymous_file(_temporary(), text + end.encode())
        cat = find_program("cat", _PATH) or "cat"  # by its full name: the command's own PATH may not have it
        return [_SH.encode(), b"-c", _RUN_LONG_TEXT.format(cat=cat, end=end).encode()]

    def _as_script(self, spec: Message, text: bytes) -> list[bytes]:
        """A script file that has no name any more, in a folder that is gone: no module is found beside it."""
        program = spec["interpreter"][0]
        if not (Path(program).is_file() and os.access(program, os.X_OK)):
            raise RefusedError(f"its interpreter {program} is not there, or is no program")
        outer = Path(_temporary(), f".fleetflow-{os.urandom(16).hex()}")
        inner = outer / os.urandom(16).hex()
        path = inner / "script"
        outer.mkdir(0o700)
        inner.mkdir(0o700)
        writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.script = os.open(path, os.O_RDONLY)
        path.unlink()
        inner.rmdir()
        outer.rmdir()
        write_all(writing, text)
        os.close(writing)
        name = "/dev/fd/9" if Path("/dev/fd").exists() else "/proc/self/fd/9"
        return [encode(word) for word in (*spec["interpreter"], name, *spec.get("arguments", ()))]

    def _open_stdin(self, data: bytes) -> None:
        self.stdin = anonymous_file(_temporary(), data) if data else os.open(os.devnull, os.O_RDONLY)

    def become(self) -> NoReturn:
        """Be the command, in a session of its own. Raises `OSError` when that is not possible."""
        os.setsid()
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if self.umask is not None:
            os.umask(self.umask)
        os.dup2(self.stdin, 0)
        if self.script >= 0:
            if self.script == 9:
                os.set_inheritable(9, True)
            else:
                os.dup2(self.script, 9)
        os.execve(self.argv[0], self.argv, self.environment)  # noqa: S606  # its shell, if any, is in argv


def _temporary() -> str:
    return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # what is made there has a name that nobody can foresee, and not for long


def _enter(cwd: str | None) -> None:
    try:
        os.chdir(os.environ.get("HOME") or "/")
    except OSError:
        os.chdir("/")
    if cwd:
        try:
            os.chdir(encode(cwd))
        except (OSError, ValueError):
            raise RefusedError(f"its working directory {cwd!r} does not exist there, or may not be entered") from None


# --- The runner ---

_GIVE_UP = 10.0  # seconds after KILL; what lives then is in the kernel's hands


class Runner:
    """Prepares a command, starts it on "go" and ends its tree on "end". Its channel, a socket, is descriptor 0.

    ready | refused WHY      go ->     started | refused WHY     exit CODE
    end ->                   ending    exit CODE    ended | left NUMBER

    When the channel ends before the command does, its keeper has been killed: the tree is ended all the same.
    """

    def __init__(self, spec: Message) -> None:
        self._spec = spec
        self._launch: Launch | None = None
        self._tree = Tree(spec["id"], runner=os.getpid())
        self._child = 0
        self._code: int | None = None
        self._kill_at: float | None = None
        self._warned: set[Process] = set()
        self._heard = b""
        self._is_over = False

    def serve(self) -> None:
        adopt_orphans()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the command, when its scope is stopped: we have to tell how it ended
        wake, written = os.pipe()
        os.set_blocking(written, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        try:
            self._launch = Launch(self._spec)
        except RefusedError as error:
            self._say(f"refused {error}")
            return
        self._say("ready")
        poller = select.poll()
        poller.register(0, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while not self._is_over:
            ready = [fd for fd, _ in poller.poll(None if self._kill_at is None else 50)]
            if wake in ready:
                os.read(wake, 4096)
            if 0 in ready and not self._listen():
                poller.unregister(0)
                self._orphaned()
            self._reap()
            if self._kill_at is not None:
                self._end_more()

    def _say(self, word: str) -> None:
        with contextlib.suppress(OSError):
            write_all(0, f"{' '.join(word.split())[:1000]}\n".encode("utf-8", "replace"))

    def _listen(self) -> bool:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if line == b"go":
                self._start()
            elif line == b"end":
                self._begin_to_end()
            else:
                self._is_over = True
        return bool(data)

    def _orphaned(self) -> None:
        if self._child and self._code is None:
            self._begin_to_end()
        elif self._kill_at is None:
            self._is_over = True

    def _start(self) -> None:
        if self._child or not self._launch:
            return
        reading, writing = os.pipe()
        try:
            self._child = os.fork()
        except OSError as error:
            self._refuse(str(error))
            return
        if not self._child:
            self._be_the_command(writing)
        os.close(writing)
        reason = os.read(reading, 1000)
        os.close(reading)
        if reason:
            os.waitpid(self._child, 0)
            self._refuse(reason.decode())
            return
        self._tree = Tree(self._spec["id"], self._child, os.getpid())
        for fd in (self._launch.stdin, self._launch.script):
            if fd >= 0:
                os.close(fd)
        self._say("started")

    def _refuse(self, reason: str) -> None:
        self._say(f"refused the command could not be started: {reason}")
        self._is_over = True

    def _be_the_command(self, writing: int) -> NoReturn:
        reason = "no such program"
        try:
            if self._launch:
                self._launch.become()
        except OSError as error:
            reason = error.strerror or str(error)
        finally:
            os.write(writing, reason.encode())
            os._exit(127)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._child:
                    self._code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                    self._say(f"exit {self._code}")

    def _begin_to_end(self) -> None:
        if self._kill_at is None:
            self._reap()
            self._say("ending")
            self._kill_at = time.monotonic() + float(self._spec.get("grace") or 0)

    def _end_more(self) -> None:
        """One look at what is left, and a signal to it."""
        left = self._tree.alive() if self._child else []
        late = time.monotonic() - (self._kill_at or 0)
        if left and late < _GIVE_UP:
            for process in left:
                self._signal(process, is_late=late >= 0)
            return
        self._reap()
        self._say(f"left {len(left)}" if left else "ended")
        self._is_over = True

    def _signal(self, process: Process, *, is_late: bool) -> None:
        if is_late:
            send_signal(process, signal.SIGKILL)
        elif not any(process.pid == warned.pid and process.born == warned.born for warned in self._warned):
            self._warned.add(process)
            send_signal(process, signal.SIGTERM)
            send_signal(process, signal.SIGCONT)  # who is stopped hears nothing


def serve_runner() -> None:
    """Where a runner under sudo begins: its specification comes over the channel."""
    Runner(json.loads(_read_sized(0))).serve()


def _read_sized(fd: int) -> bytes:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.read(fd, min(size - len(data), _MIB))
            if not more:
                raise SystemExit(1)
            data += more
        return data

    return read(int(read(10)))


# --- Becoming another user ---

# Under sudo python gets this as its only text, and the rest over the channel.
_BOOT = """import os
def r(n):
 b=b""
 while len(b)<n:
  c=os.read(0,n-len(b))
  if not c:os._exit(1)
  b+=c
 return b
os.write(0,b"entered\\n")
g={"__name__":"fleetflow_agent"}
exec(compile(r(int(r(10))),"agent","exec"),g)
g["serve_runner"]()"""
# Ours may lie where that user cannot get.
_FIND_PYTHON = """for p in "$2" /usr/bin/python3 /usr/local/bin/python3 /usr/libexec/platform-python; do
[ -x "$p" ] && exec "$p" -I -S -c "$1"; done; echo "sudo: there is no python3 that this user may run" >&2; exit 127"""


class Sudo:
    """sudo starts the runner itself, so that who watches and kills has the rights of what runs.

    The password is sent when sudo asks for it by the prompt that we gave it, once, and never otherwise: so no command can read it.
    """

    def __init__(self, user: str, password: str | None) -> None:
        if password is not None and set(password) & set("\0\r\n"):
            raise RefusedError("the become password holds a line break or a NUL byte, which sudo cannot read")
        self._password = password
        self._prompt = f"fleetflow-{os.urandom(16).hex()} password:"
        self._said = ""
        self._asked = 0
        manner = ["-n"] if password is None else ["-k", "-S", "-p", self._prompt]
        python = os.path.realpath(sys.executable)
        self.argv = ["sudo", *manner, "-H", "-u", user, "--", _SH, "-c", _FIND_PYTHON, _SH, _BOOT, python]

    def feed(self, data: bytes) -> bytes:
        """Take what came on stderr; returns what is to be answered."""
        self._said = (self._said + data.decode(errors="backslashreplace"))[-16384:]
        if self._prompt not in self._said:
            return b""
        self._said = self._said.rpartition(self._prompt)[2]
        self._asked += 1
        return encode(f"{self._password}\n") if self._asked == 1 else b""

    @property
    def refusal(self) -> str | None:
        return "sudo refuses: the password is wrong (it asked again)" if self._asked > 1 else None

    @property
    def why_ended(self) -> str:
        lines = [line.strip() for line in self._said.splitlines() if line.strip()]
        reason = next((line[6:] for line in lines if line.startswith("sudo: ")), lines[0] if lines else "it said nothing")
        if self._password:
            reason = reason.replace(self._password, "***")
        advice = "; no become password is set" if self._password is None and "password" in reason else ""
        return f"sudo refuses: {reason[:300]}{advice}"


def _own_text() -> bytes:
    """This program, as its service runs it."""
    return Path(__file__).with_suffix(".py").read_bytes()


def _sized(data: bytes) -> bytes:
    return b"%010d" % len(data) + data


# --- The spool ---

_PIECE = 64 * 1024  # bytes: the least that is thrown away of a stream's middle at once
_END_SIZE = 4096  # bytes that `end` has from the beginning, for a disk that is full by then


class Track:
    """One stream on its way into the spool: its first and its last `limit` bytes, as files named after the byte they begin with.

    What finds no room on the disk is left out, and counted by the names.
    """

    def __init__(self, folder: Path, stream: str, limit: int) -> None:
        self._folder = folder
        self._stream = stream
        self._limit = limit
        self._step = max(limit // 4, _PIECE)
        self._fd = -1
        self._room = 0
        self._tail: list[list[int]] = []  # of each piece behind the head: where it begins, how much it holds
        self.total = 0

    def take(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not self._room and not self._open():
                self.total += len(view)
                return
            written = self._write(view[: self._room])
            if not written:  # it may have found no room: then this much is left out, and the next try is a file of its own
                written, self._room = len(view), 0
            self.total += written
            view = view[written:]

    def _write(self, view: memoryview) -> int:
        try:
            written = os.write(self._fd, view)
        except OSError:
            return 0
        self._room -= written
        if self._tail and self.total >= self._limit:
            self._tail[-1][1] += written
        return written

    def _open(self) -> bool:
        self._close()
        try:
            path = self._folder / f"{self._stream}.{self.total}"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError:
            return False
        if self.total < self._limit:
            self._room = self._limit - self.total
        else:
            self._room = self._step
            self._tail.append([self.total, 0])
            self._prune()
        return True

    def _prune(self) -> None:
        while sum(size for _, size in self._tail[1:]) >= self._limit:
            begin, _ = self._tail.pop(0)
            (self._folder / f"{self._stream}.{begin}").unlink()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def finish(self) -> None:
        """Make what is kept survive a power cut."""
        self._close()
        for path in self._folder.glob(f"{self._stream}.*"):
            fd = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):
                os.fsync(fd)
            os.close(fd)


class Spool:
    """What is kept of one command, as the service sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def tell(self, word: str) -> bool:
        """Say a word to the keeper; whether it lives. An empty word only asks."""
        try:
            fd = os.open(self.folder / "control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            if word:
                os.write(fd, f"{word}\n".encode())
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def end(self) -> Message | None:
        """How it ended, once that is written."""
        try:
            end = json.loads((self.folder / "end").read_bytes())
        except (OSError, ValueError):
            return None
        return end if isinstance(end, dict) else None

    def fence(self) -> bool:
        """See to it that it never starts; False when it may have. Raises `FileNotFoundError` when there is no spool."""
        return link_once(self.folder, "void")

    def kept(self, stream: str, limit: int, total: int | None) -> list[tuple[int, int]]:
        """From where to where there are bytes. Without a total, while the stream still grows, only those of its beginning."""
        found = []
        for path in self.folder.glob(f"{stream}.*"):
            with contextlib.suppress(OSError, ValueError):
                begin = int(path.suffix[1:])
                found.append((begin, begin + path.stat().st_size))
        if total is None:
            return [(begin, end) for begin, end in sorted(found) if begin < limit]
        cut = max(limit, total - limit)
        return [(begin if begin < limit else max(begin, cut), end) for begin, end in sorted(found) if begin < limit or end > cut]

    def read(self, stream: str, at: int, end: int) -> bytes:
        """The bytes from one place to another, which lie in one file."""
        begin = max((int(path.suffix[1:]) for path in self.folder.glob(f"{stream}.*") if int(path.suffix[1:]) <= at), default=None)
        if begin is None:
            return b""
        try:
            fd = os.open(self.folder / f"{stream}.{begin}", os.O_RDONLY)
        except OSError:
            return b""
        try:
            return os.pread(fd, end - at, at - begin)
        finally:
            os.close(fd)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()


def link_once(folder: Path, word: str) -> bool:
    """Make `go` with this word in it, whole, unless it is there; whether it was us."""
    mine = folder / f"go.{os.getpid()}"
    mine.write_text(word)
    try:
        os.link(mine, folder / "go")
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


# --- The keeper ---

_NEWS = 0.1  # seconds between two calls to the service because of output
_LOOK = 2.0  # seconds between looks whether what is held can still be started
_CONFIRM = 15.0  # seconds beyond the grace, for the runner to say that the tree has ended


class Keeper:
    """Keeps one command: its output, its timeout, its end. Nobody needs to live for that but the runner."""

    def __init__(self, folder: Path, spec: Message) -> None:
        self._folder = folder
        self._spec = spec
        limit = int(spec.get("output_limit") or _MIB)
        self._tracks = {stream: Track(folder, stream, limit) for stream in STREAMS}
        self._sudo: Sudo | None = None
        self._poller = select.poll()
        self._fds: dict[int, str] = {}
        self._heard = {"runner": b"", "control": b""}
        self._state = "preparing"
        self._end: Message = {"exit_code": None, "ended": None, "error": None, "refused": None, "started_at": None}
        self._asked: str | None = None  # why the tree is to end
        self._is_over = False
        self._timeout_at: float | None = None
        self._give_up_at: float | None = None
        self._news_at: float | None = None
        self._told_at = 0.0

    def keep(self) -> None:
        control = self._folder / "control"
        os.mkfifo(control, 0o600)
        heard = os.open(control, os.O_RDWR | os.O_NONBLOCK)
        signal.signal(signal.SIGTERM, lambda *_: os.write(heard, b"term\n"))
        self._watch("control", heard)
        if (self._folder / "go").exists():  # the service has given us up; it looks for our FIFO only after that
            return
        self._reserve_end()
        try:
            self._start_runner()
        except (RefusedError, OSError) as error:
            self._refuse(str(error))
        while not self._is_over:
            for fd, _ in self._poller.poll(self._patience()):
                self._take(fd)
            self._keep_time()
        self._write_end()
        self._call()

    # What it hears

    def _watch(self, name: str, fd: int) -> None:
        self._fds[fd] = name
        self._poller.register(fd, select.POLLIN)

    def _take(self, fd: int) -> None:
        name = self._fds.get(fd)
        if name is None:
            return
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._poller.unregister(fd)
            del self._fds[fd]
            if name == "runner":
                self._runner_died()
        elif name in STREAMS:
            self._take_output(name, data)
        else:
            *lines, self._heard[name] = (self._heard[name] + data).split(b"\n")
            for line in lines:
                self._heed(name, line.decode("utf-8", "replace"))

    def _heed(self, who: str, line: str) -> None:
        word, _, rest = line.partition(" ")
        answer: Callable[[str], None] | None = getattr(self, f"_on_{who}_{word}", None)
        if answer and not self._is_over:
            answer(rest)

    def _on_control_go(self, _rest: str) -> None:
        if self._state != "held":
            return
        try:
            if not link_once(self._folder, "run"):
                self._refuse("it was given up before it could start")
                return
        except OSError as error:
            self._refuse(f"the agent's disk takes nothing more: {error.strerror}")
            return
        self._state = "started"
        self._end["started_at"] = time.time()
        if self._spec.get("timeout"):
            self._timeout_at = time.monotonic() + float(self._spec["timeout"])
        self._send(b"go\n")

    def _on_control_cancel(self, _rest: str) -> None:
        if self._state == "started":
            self._stop("canceled")
        else:
            self._refuse("canceled")

    def _on_control_term(self, _rest: str) -> None:
        """The host goes down, or somebody has stopped the scope: the command has heard it, and its end is worth the wait."""
        if self._state != "started":
            self._refuse("its keeper was ended before it could start")

    def _on_runner_entered(self, _rest: str) -> None:
        self._send(_sized(_own_text()) + _sized(json.dumps(self._spec).encode()))

    def _on_runner_ready(self, _rest: str) -> None:
        self._discard()
        self._sudo = None
        self._state = "held"
        (self._folder / "ready").touch(0o600)
        self._call()

    def _on_runner_started(self, _rest: str) -> None:
        self._call()

    def _on_runner_refused(self, reason: str) -> None:
        self._refuse(reason)

    def _on_runner_exit(self, code: str) -> None:
        self._drain()
        self._end["exit_code"] = int(code)
        self._is_over = self._asked is None

    def _on_runner_ending(self, _rest: str) -> None:
        if self._end["exit_code"] is None:  # else it ended by itself in the meantime
            self._end["ended"] = self._asked

    def _on_runner_ended(self, _rest: str) -> None:
        self._drain()
        self._is_over = True

    def _on_runner_left(self, number: str) -> None:
        self._on_runner_ended("")
        self._end["error"] = f"{number} of its processes could not be ended"

    # What it does

    def _start_runner(self) -> None:
        if self._spec.get("become"):
            self._sudo = Sudo(self._spec["become"], self._spec.get("become_password"))
            if not find_program("sudo", os.environ.get("PATH", _PATH)):
                raise RefusedError("sudo is not installed there, or not in the PATH of the login")
        ours, theirs = socket.socketpair()
        out, err = os.pipe(), os.pipe()
        if not os.fork():
            self._be_the_runner(theirs.fileno(), out[1], err[1])
        for fd in (out[1], err[1]):
            os.close(fd)
        for fd in (out[0], err[0]):
            os.set_blocking(fd, False)  # `_drain` may have taken what poll(2) has announced
        theirs.close()
        self._channel = ours
        self._watch("runner", ours.fileno())
        self._watch("stdout", out[0])
        self._watch("stderr", err[0])

    def _be_the_runner(self, *fds: int) -> NoReturn:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.umask(0o022)
            for target, fd in enumerate(fds):
                os.dup2(fd, target)
            if self._sudo:
                os.chdir("/")
                os.execvp(self._sudo.argv[0], self._sudo.argv)  # noqa: S606  # no shell must read it
            os.closerange(3, 1024)  # the keeper's end of the channel above all: its end must be seen
            Runner(self._spec).serve()
        except BaseException as error:  # noqa: BLE001  # two keepers of one command must not go on, whatever it is
            write_all(0, f"refused the runner broke: {error!r}\n".encode())
        finally:
            os._exit(0)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(data)

    def _take_output(self, stream: str, data: bytes) -> None:
        if self._state == "started":
            self._tracks[stream].take(data)
            self._news_at = self._news_at or max(time.monotonic(), self._told_at + _NEWS)
        elif self._sudo and stream == "stderr":
            self._send(self._sudo.feed(data))
            if self._sudo.refusal:
                self._refuse(self._sudo.refusal)

    def _drain(self) -> None:
        """What was printed by now. What a child that was left behind prints later is not the command's."""
        for fd, stream in list(self._fds.items()):
            size = waiting_bytes(fd) if stream in STREAMS else 0
            while size > 0:
                data = os.read(fd, min(size, 65536))
                self._take_output(stream, data)
                size -= len(data)

    _discard = _drain  # before the start nobody takes what is read

    def _stop(self, why: str) -> None:
        if self._asked is None:
            self._asked = why
            self._give_up_at = time.monotonic() + float(self._spec.get("grace") or 0) + _CONFIRM
            self._send(b"end\n")

    def _refuse(self, reason: str) -> None:
        self._end["refused"] = reason
        self._is_over = True

    def _runner_died(self) -> None:
        """It has told its last word, or somebody has killed it."""
        if self._is_over:
            return
        if self._state == "preparing":
            self._drain()
            self._refuse(self._sudo.why_ended if self._sudo else "its runner was killed")
        elif self._state == "held":
            self._refuse("its runner was killed")
        else:
            self._not_confirmed("killed", "what ran it was killed")

    def _not_confirmed(self, ended: str, error: str) -> None:
        is_gone = Tree(self._spec["id"]).kill()
        self._drain()
        if self._end["exit_code"] is None:
            self._end.update(ended=ended, error=error if is_gone else f"{error}, and not all of its processes could be ended")
        self._is_over = True

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._news_at is not None and now >= self._news_at:
            self._call()
        if self._timeout_at is not None and now >= self._timeout_at:
            self._timeout_at = None
            self._stop("timed_out")
        if self._give_up_at is not None and now >= self._give_up_at and not self._is_over:
            self._not_confirmed(self._asked or "killed", "its end was not confirmed")
        if self._state == "held" and not self._folder.exists():
            sys.exit(0)  # somebody has removed the agent: nobody will ever say that it shall start

    def _patience(self) -> int | None:
        """Milliseconds until something is due."""
        looks = time.monotonic() + _LOOK if self._state == "held" else None
        due = [moment for moment in (self._news_at, self._timeout_at, self._give_up_at, looks) if moment is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _call(self) -> None:
        self._news_at, self._told_at = None, time.monotonic()
        call_service(self._folder.parent.parent)

    def _reserve_end(self) -> None:
        (self._folder / "end.new").write_bytes(b" " * _END_SIZE)

    def _write_end(self) -> None:
        for track in self._tracks.values():
            track.finish()
        self._end.update({stream: track.total for stream, track in self._tracks.items()}, finished_at=time.time())
        fd = os.open(self._folder / "end.new", os.O_WRONLY)
        write_all(fd, json.dumps(self._end).encode()[:_END_SIZE])
        os.fsync(fd)
        os.close(fd)
        (self._folder / "end.new").replace(self._folder / "end")
        sync_folder(self._folder)


def call_service(state: Path) -> None:
    """Wake the service, if there is one."""
    with contextlib.suppress(OSError):
        fd = os.open(state / "news", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            os.write(fd, b".")
        os.close(fd)


def keep(folder: Path, *, in_scope: bool) -> None:
    """The keeper of one command, whose specification is its stdin."""
    os.umask(0o077)
    with os.fdopen(0, "rb", closefd=False) as source:  # a descriptor has no path
        spec = json.loads(source.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if in_scope:
        try:
            enter_scope(str(spec["id"]))
        except (OSError, RefusedError) as error:
            say(f"systemd gives it no scope of its own: {error}")
    Keeper(folder, spec).keep()


# --- What the host allows ---


class Policy:
    """A file in which the host's own people say what may run here, one rule a line; the first that fits decides.

        allow USER PATTERN    the pattern (a regular expression) is the whole text
        forbid USER PATTERN   it stands somewhere in the text
        env NAME...           commands may bring these variables

    USER is who the command runs as, or `*`. What no rule allows is refused, and so is everything while the file cannot be trusted.
    Without a file everything is allowed.
    """

    def __init__(self, path: Path, *, is_required: bool) -> None:
        self._path = path
        self._is_required = is_required

    def why_not(self, spec: Message) -> str:
        """Why this command may not run here; empty where it may."""
        try:
            text = self._read()
            return "" if text is None else self._judge(text, spec)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return f"the host's policy {self._path} cannot be used, so nothing may run: {reason}"

    def _read(self) -> str | None:
        """The file, once it is certain that nobody else may write it. Raises `OSError` and `ValueError`."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if self._is_required:
                raise
            return None
        with os.fdopen(fd, "rb") as source:
            _trust("it", os.fstat(fd))
            folder = Path(os.path.realpath(self._path.parent))
            for above in (folder, *folder.parents):
                _trust(f"the folder {above}", above.stat())
            return source.read().decode()

    def _judge(self, text: str, spec: Message) -> str:
        command = policy_text(spec)
        user = _user(spec.get("become"))
        variables: set[str] = set()
        verdict = f"the host's policy {self._path} allows no such command for {user}"
        is_decided = False
        for number, line in enumerate(text.splitlines(), 1):
            word, who, pattern = ([*line.split(None, 2), "", "", ""])[:3]
            if not word or word.startswith("#"):
                continue
            if word == "env":
                variables.update(line.split()[1:])
            elif word not in ("allow", "forbid") or not pattern:
                raise ValueError(f"line {number} is no rule")
            elif _fits(word, pattern, command, number) and who in ("*", user) and not is_decided:
                is_decided = True
                verdict = "" if word == "allow" else f"the host's policy {self._path} forbids it (line {number})"
        brought = sorted(set(spec.get("env") or ()) - variables)
        if brought and not verdict:
            return f"the host's policy {self._path} does not let a command bring {', '.join(brought)[:200]}"
        return verdict


def _trust(what: str, about: os.stat_result) -> None:
    """Raise `ValueError` unless root and we alone decide what is there; in a sticky folder each has what is his own."""
    if about.st_uid not in (0, os.geteuid()):
        raise ValueError(f"{what} is another user's")
    if about.st_mode & 0o022 and not (stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX):
        raise ValueError(f"others may write {what}")


def _user(become: str | None) -> str:
    """The first name of whom a command runs as: sudo also takes a number, and two names may be one user. Raises `ValueError`."""
    try:
        if not become:
            number = os.geteuid()
        elif become.startswith("#"):
            number = int(become[1:])
        else:
            number = pwd.getpwnam(become).pw_uid
        return pwd.getpwuid(number).pw_name
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{become or os.geteuid()} is no user here") from None


def _fits(word: str, pattern: str, text: str, number: int) -> bool:
    try:
        rule = re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"line {number}: {error}") from None
    return bool(rule.fullmatch(text) if word == "allow" else rule.search(text))


def policy_text(spec: Message) -> str:
    """What the rules are about: the shell text; of a script file its interpreter, its text and its arguments, each on lines of its own."""
    text = str(spec.get("script", ""))
    if not spec.get("interpreter"):
        return text.strip()
    return "\n".join([" ".join(map(str, spec["interpreter"])), text.strip(), *map(str, spec.get("arguments") or ())])


# --- The journal ---

_TOMBSTONES = 7 * _DAY
_MOST_TOMBSTONES = 100_000
_SHORTEST = 4  # characters of a torn id that still say something


class Entry(NamedTuple):
    """What was last written of an attempt: held, started, acked (it ran), refused (it never did)."""

    word: str
    boot: str = ""
    at: float = 0.0
    limit: int = _MIB


class Journal:
    """Which attempts this host has ever taken, as lines of JSON that only grow; a line is on the disk before anything is done.

    A torn line says "may have started" of the attempt whose id it begins with.
    """

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self.torn: set[str] = set()
        raw = path.read_bytes() if path.exists() else b""
        *lines, last = raw.split(b"\n")
        for line in lines:
            self._read(line)
        if last:
            self._read(last)
        self._tidy()
        try:
            replace_file(path, self._compacted())
            last = b""
        except OSError as error:  # a full disk: the old file will do
            say(f"the journal cannot be written anew: {error.strerror}")
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._break = b"\n" if last else b""

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            self.entries[record["id"]] = Entry(record["is"], record["boot"], float(record["at"]), int(record["limit"]))
        except (ValueError, KeyError, TypeError):
            torn = re.match(rb'\{"id": "([0-9a-f-]{1,36})', line)
            if torn and len(torn.group(1)) >= _SHORTEST:
                self.torn.add(torn.group(1).decode())

    def _tidy(self) -> None:
        """Judge what is torn, and drop old tombstones."""
        for attempt in [attempt for attempt in self.torn if len(attempt) == 36]:
            self.torn.discard(attempt)
            earlier = self.entries.get(attempt, Entry("held", at=time.time()))
            if earlier.word == "held":
                self.entries[attempt] = earlier._replace(word="torn")
        oldest = time.time() - _TOMBSTONES
        dead = sorted((entry.at, attempt) for attempt, entry in self.entries.items() if entry.word in ("acked", "refused"))
        for at, attempt in dead[:-_MOST_TOMBSTONES] + dead[-_MOST_TOMBSTONES:]:
            if at < oldest or len(self.entries) > _MOST_TOMBSTONES:
                del self.entries[attempt]

    def _compacted(self) -> bytes:
        lines = [_line(attempt, entry) for attempt, entry in self.entries.items()]
        lines += [f'{{"id": "{torn}\n'.encode() for torn in sorted(self.torn)]
        return b"".join(lines)

    def knows(self, attempt: str) -> bool:
        return attempt in self.entries or any(attempt.startswith(torn) for torn in self.torn)

    def write(self, entries: dict[str, Entry]) -> None:
        """Write these to the disk. Raises `OSError`, and then nothing was written."""
        data = self._break + b"".join(_line(attempt, entry) for attempt, entry in entries.items())
        try:
            write_all(self._fd, data)
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self._break = b""
        self.entries.update(entries)


def _line(attempt: str, entry: Entry) -> bytes:
    return (json.dumps({"id": attempt, "is": entry.word, "boot": entry.boot, "at": entry.at, "limit": entry.limit}) + "\n").encode()


# --- What the host tells of itself ---


def facts() -> Message:
    """What seldom changes."""
    system = os.uname()
    found = {}
    for line in read_word(Path("/etc/os-release")).splitlines():
        key, _, value = line.partition("=")
        found[key] = value.strip("\"'")
    return {
        "os": found.get("PRETTY_NAME", system.sysname),
        "os_id": found.get("ID", ""),
        "os_version": found.get("VERSION_ID", ""),
        "kernel": system.release,
        "arch": system.machine,
        "hostname": system.nodename,
        "python": ".".join(map(str, sys.version_info[:3])),
        "addresses": addresses(),
        "user": clean_environment().get("USER", str(os.geteuid())),
        "cpus": os.cpu_count() or 1,
    }


def addresses() -> list[str]:
    """Those of this machine but for loopback and link-local ones, as the kernel lists them."""
    trie = read_word(Path("/proc/net/fib_trie")).splitlines()
    four = {above.split()[-1] for above, line in zip(trie, trie[1:]) if "/32 host LOCAL" in line}
    six = {line.split()[0] for line in read_word(Path("/proc/net/if_inet6")).splitlines()}
    long = {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(word)) for word in six}
    return sorted(a for a in four if not a.startswith("127.")) + sorted(a for a in long if a != "::1" and not a.startswith("fe80"))


def telemetry(state: Path, running: int) -> Message:
    """What changes all the time; bytes and seconds."""
    memory = {}
    for line in read_word(Path("/proc/meminfo")).splitlines():
        key, _, value = line.partition(":")
        memory[key] = int(value.split()[0]) * 1024
    disk = os.statvfs(state)
    return {
        "load1": os.getloadavg()[0],
        "cpus": os.cpu_count() or 1,
        "mem_total": memory.get("MemTotal", 0),
        "mem_free": memory.get("MemAvailable", memory.get("MemFree", 0)),
        "disk_free": disk.f_bavail * disk.f_frsize,
        "uptime": float((read_word(Path("/proc/uptime")).split() or ["0"])[0]),
        "running": running,
    }


# --- The line to the hub ---

_LARGEST = 24 * _MIB  # bytes of an answer
_SLOWEST = 10.0  # seconds between two tries at most: as long as a worker waits for an agent, so that after an outage none is given up


class HubError(Exception):
    """The hub answered, but not with what was asked for."""

    def __init__(self, status: int, body: Message) -> None:
        self.status = status
        self.reason = " ".join(str(body.get("error") or f"status {status}").split())[:300]
        self.state = str(body.get("state") or ("unknown" if status == 401 else ""))  # of this agent there; empty: it does not say
        retry = body.get("retry")
        self.retry = float(retry) if isinstance(retry, (int, float)) and not isinstance(retry, bool) else None
        super().__init__(self.reason)


class HubUrl:
    """Where the hub is. Raises `UsageError` for what is no address, and for plain http beyond this machine."""

    def __init__(self, url: str, fingerprint: str | None) -> None:
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is not the address of a hub: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not the address of a hub; write https://HOST:PORT")
        self.host = parts.hostname
        self.is_safe = parts.scheme == "https"
        if not self.is_safe and not re.fullmatch(r"127(\.\d+){3}|::1|localhost", self.host):
            raise UsageError(f"{url!r}: plain http would show the credential to the network; use https")
        self.port = port or (443 if self.is_safe else 80)
        self.path = parts.path.rstrip("/")
        self.fingerprint = (fingerprint or "").replace(":", "").lower()
        if self.fingerprint and not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise UsageError("the fingerprint is not a SHA-256: 64 hexadecimal digits")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


_NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")  # what OpenSSL says to an answer in clear
_ANEW = "`fleetflow hub` shows the hub's address, and `join --replace` enrols this host there"


class Line:
    """One connection, kept open between requests. The name is looked up anew for each connection."""

    def __init__(self, url: HubUrl) -> None:
        self._url = url
        self._connection: Any = None
        self.deadline: float | None = None

    def ask(self, path: str, body: Message, *, token: str = "", patience: float = 30.0, hold: float = 0.0) -> Message:
        """Post a message; the answer. Raises `HubError`, and `OSError` when no answer came within `patience` seconds.

        An agent that waits for its approval may be answered so many seconds later (`hold`), when it has come (RFC 7240, "wait").
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"fleetflow-agent/{VERSION}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if hold:
            headers["Prefer"] = f"wait={hold:.0f}"
        data = json.dumps(body).encode()
        is_new = self._connection is None
        self.deadline = time.monotonic() + patience + 5
        try:
            return self._exchange(path, data, headers, patience)
        except ConnectionError:
            if is_new:
                raise
            # It was idle, and may have been closed meanwhile; or it broke with an answer on it, which is to be given again.
            return self._exchange(path, json.dumps({**body, "again": True}).encode(), headers, patience)
        finally:
            self.deadline = None

    def _exchange(self, path: str, data: bytes, headers: dict[str, str], patience: float) -> Message:
        import http.client

        is_new = self._connection is None
        try:
            if is_new:
                self._connect()
            self._connection.sock.settimeout(patience)
            self._connection.request("POST", self._url.path + path, data, headers)
            response = self._connection.getresponse()
            answer = response.read(_LARGEST + 1)
        except (http.client.HTTPException, ConnectionError) as error:
            self.close()
            if is_new and not self._url.is_safe and self._speaks_tls():
                raise OSError(f"{self._url} speaks TLS now, and not http; {_ANEW}") from error
            if isinstance(error, http.client.HTTPException):
                raise ConnectionError(f"no answer: {error!r}") from error
            raise
        except BaseException:
            self.close()
            raise
        if response.will_close or len(answer) > _LARGEST:
            self.close()
        return _parse(response.status, answer)

    def _connect(self) -> None:
        import http.client

        wire: Any = socket.create_connection((self._url.host, self._url.port), timeout=10)
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._url.is_safe:
                wire = self._secured(wire)
        except BaseException:
            wire.close()
            raise
        self._connection = http.client.HTTPConnection(self._url.host, self._url.port)
        self._connection.sock = wire

    def _secured(self, wire: socket.socket) -> socket.socket:
        """With the certificate whose fingerprint was given at the enrolment, or else one that this machine trusts."""
        import ssl

        context = ssl.create_default_context()
        if self._url.fingerprint:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            safe = context.wrap_socket(wire, server_hostname=self._url.host)
        except ssl.SSLCertVerificationError as error:
            why = f"this machine does not trust the certificate of {self._url}: {error.verify_message}"
            raise OSError(f"{why}; with --fingerprint its SHA-256 is all that counts, which `fleetflow hub` shows") from None
        except ssl.SSLError as error:
            if error.reason not in _NO_TLS:
                raise
            raise OSError(f"{self._url} does not speak TLS, as https does; {_ANEW}") from None
        import hashlib

        shown = hashlib.sha256(safe.getpeercert(binary_form=True) or b"").hexdigest()
        if self._url.fingerprint and shown != self._url.fingerprint:
            safe.close()
            raise OSError(f"the certificate of {self._url.host} is not the one of the enrolment: its SHA-256 is {shown}")
        return safe

    def _speaks_tls(self) -> bool:
        """Whether who listens there would shake hands."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with socket.create_connection((self._url.host, self._url.port), timeout=3) as wire, context.wrap_socket(wire):
                return True
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def break_off(self) -> None:
        """From another thread: whoever waits for an answer gets an error."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)


def _parse(status: int, answer: bytes) -> Message:
    try:
        body = json.loads(answer)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
        status = status if status != 200 else 502
    if status != 200:
        raise HubError(status, body)
    return body


def chance() -> float:
    """A number between 0 and 1."""
    number: int = int.from_bytes(os.urandom(4), "big")
    return number / 4294967296


class Backoff:
    """How long to wait after a failure: by chance, twice as long each time, so that a fleet does not come back all at once."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self) -> float:
        self._failures = min(self._failures + 1, 10)
        return 0.05 + chance() * min(_SLOWEST, 0.25 * (1 << self._failures))

    def reset(self) -> None:
        self._failures = 0


class Identity:
    """Who this agent is to which hub, with its credential; a file of ours that nobody else can read."""

    def __init__(self, path: Path, values: Message) -> None:
        self._path = path
        self._values = values
        self._stamp = _stamp(path)
        self.url = HubUrl(values["hub"], values.get("fingerprint"))

    @classmethod
    def load(cls, state: Path) -> Identity:
        path = state / "identity"
        try:
            return cls(path, json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise UsageError(f"this host is not enrolled ({path} is not there); use `join` first") from None
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} cannot be read ({error}); enrol the host anew with `join --replace`") from None

    def save(self) -> None:
        replace_file(self._path, json.dumps(self._values).encode())
        self._stamp = _stamp(self._path)

    def is_replaced(self) -> bool:
        """Whether somebody has enrolled this host anew."""
        return _stamp(self._path) not in (self._stamp, None)

    def change(self, **values: object) -> None:
        """Set these values, those that are None aside; on the disk before it counts."""
        changed = {key: value for key, value in {**self._values, **values}.items() if value is not None}
        if changed != self._values:
            replace_file(self._path, json.dumps(changed).encode())
            self._values, self._stamp = changed, _stamp(self._path)

    def obey(self, answer: Message) -> bool:
        """Make a credential, take the one that was made, or be another agent, as the hub says; whether it is another."""
        if answer.get("rotate") is True and "next" not in self._values:
            self.change(next=os.urandom(32).hex())
        if answer.get("taken") is not None and answer["taken"] == self.claims.get("next"):
            self.change(credential=self._values["next"], generation=self.generation + 1, next=None)
        who = answer.get("identity")
        if not isinstance(who, dict) or not _ID.fullmatch(str(who.get("agent"))):
            return False
        self.change(agent=str(who["agent"]), name=str(who["name"]), generation=int(who["generation"]), next=None)
        return True

    @property
    def claims(self) -> Message:
        """What goes with the token: which credential of ours it is, and the SHA-256 of the next one where there is one."""
        claims: Message = {"generation": self.generation}
        if "next" in self._values:
            claims["next"] = sha256(str(self._values["next"]))
        return claims

    @property
    def is_new(self) -> bool:
        """Whether no hub has ever taken this credential: it is told of it soon."""
        return self._values.get("is_new") is True

    @property
    def hub(self) -> str:
        return str(self._values["hub"])

    @property
    def token(self) -> str:
        return f"{self._values['agent']}.{self._values['credential']}"

    @property
    def name(self) -> str:
        return str(self._values["name"])

    @property
    def generation(self) -> int:
        return int(self._values["generation"])

    def __str__(self) -> str:
        return f"{self.name} ({self._values['agent']}) at {self._values['hub']}"


def _stamp(path: Path) -> tuple[int, int] | None:
    """What is another one for each file that was ever at this place."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


# --- What the service holds ---

_MOST_WAITING = 64  # commands beyond the limit of those at once
_AGAIN = 2.0  # seconds until something is said again that has not been noted
_MERGE = 0.1  # seconds in which a short command may end, to be told of in one message
_OUTPUT = 0.25  # seconds between two messages that bring output alone
_ROOM = 512 * 1024  # bytes of output in a message
_LEAST_FREE = _MIB  # bytes of disk below which nothing new is taken
_WORDS = {"held": "held", "started": "accepted", "refused": "refused", "done": "done"}


class Limits(NamedTuple):
    """What the host lets its agent use."""

    commands: int = 4  # at once
    spool: int = 512 * _MIB  # bytes of results that the hub has not taken yet
    policy: Policy = Policy(Path("/nowhere"), is_required=False)
    has_scopes: bool = False  # each command in one of its own


class Run:
    """One attempt, as far as the service knows it, and what the hub has of it."""

    def __init__(self, attempt: str, spool: Spool, limit: int) -> None:
        self.id = attempt
        self.spool = spool
        self.limit = limit
        self.state = "preparing"  # or waiting, held, started, done, refused
        self.spec: Message | None = None  # as long as it waits
        self.keeper: Any = None  # its process, if it is our child
        self.reason = ""  # why it was refused
        self.end: Message = {}
        self.is_noted = False  # what stands in `state`, by the hub
        self.said_at = -_AGAIN
        self.since = time.monotonic()  # in this state
        self.stored = dict.fromkeys(STREAMS, 0)
        self.has_news = True  # there may be output that the hub has not got
        self.told_at = -_AGAIN  # when it got some
        self.is_wanted = False  # "go" came before it was ready
        self.is_forgotten = False  # "ack" came before its end

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "refused")

    @property
    def is_active(self) -> bool:
        return self.state in ("preparing", "held", "started")

    def move(self, state: str) -> None:
        if state != self.state:
            self.state, self.since, self.has_news = state, time.monotonic(), True
            self.tell_again()

    def tell_again(self) -> None:
        self.is_noted, self.said_at = False, -_AGAIN

    def refuse(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.move("refused")

    def due_at(self) -> float | None:
        """When something is to be said of it; None: nothing is, before something happens."""
        due = []
        if self.state in _WORDS and not self.is_noted:
            due.append(self.said_at + _AGAIN)
        if self.has_news and self.state == "started":
            due.append(self.told_at + _OUTPUT)
        return max(min(due), self.since + _MERGE if self.state == "started" else 0) if due else None

    def output(self, room: int) -> tuple[list[Message], bool]:
        """What the hub has not got, at most so many bytes of it; and whether that is all there is."""
        pieces: list[Message] = []
        for stream in STREAMS:
            total = int(self.end.get(stream) or 0) if self.state == "done" else None
            at = self.stored[stream]
            for begin, end in self.spool.kept(stream, self.limit, total):
                while at < end:
                    if room <= 0:
                        return pieces, False
                    place = max(begin, at)
                    if total is None and place > at:
                        break  # what is left out there may still come to more
                    data = self.spool.read(stream, place, min(end, place + min(room, _PIECE)))
                    if not data:
                        break
                    pieces.append(self._piece(stream, at, place, data))
                    at, room = place + len(data), room - len(data)
            if total is not None and at < total:
                pieces.append(self._piece(stream, at, total, b""))
        return pieces, True

    def _piece(self, stream: str, at: int, place: int, data: bytes) -> Message:
        piece: Message = {"id": self.id, "stream": stream, "offset": place, "data_b64": base64.b64encode(data).decode()}
        if place > at:
            piece["gap"] = place - at
        return piece

    def outcome(self) -> Message:
        """The end, as the hub is told it."""
        told: Message = {key: self.end.get(key) for key in ("exit_code", "ended", "error", "started_at", "finished_at")}
        told["id"] = self.id
        for stream in STREAMS:
            total = int(self.end.get(stream) or 0)
            told[stream] = total
            told[f"{stream}_cut"] = total - sum(end - begin for begin, end in self.spool.kept(stream, self.limit, total))
        return told


class Desk:
    """All attempts that this host knows. Not thread-safe: the service has a lock around it."""

    def __init__(self, state: Path, limits: Limits) -> None:
        self._state = state
        self._spools = state / "spool"
        self._limits = limits
        self._boot = boot_id()
        self._keepers: list[Any] = []
        self._once: dict[str, list[Message]] = {"refused": [], "done": []}  # of attempts that we hold no more
        self.journal = Journal(state / "journal")
        self.runs: dict[str, Run] = {}
        self._spools.mkdir(mode=0o700, exist_ok=True)
        for attempt, entry in self.journal.entries.items():
            if entry.word in ("held", "started", "torn"):
                self.runs[attempt] = Run(attempt, Spool(self._spools / attempt), entry.limit)
        for folder in self._spools.iterdir():
            if folder.name not in self.runs:
                Spool(folder).tell("cancel")
                Spool(folder).remove()
        self.look()

    @property
    def free(self) -> int:
        return max(0, self._limits.commands - sum(run.is_active or run.state == "waiting" for run in self.runs.values()))

    @property
    def active(self) -> int:
        return sum(run.is_active for run in self.runs.values())

    # What the hub says

    def take(self, spec: Message) -> None:
        """A command to be held, and started when the hub says go."""
        attempt = spec["id"]
        if not isinstance(attempt, str) or not _ID.fullmatch(attempt):
            raise ValueError(f"{attempt!r} is no attempt")
        if attempt in self.runs:
            self.runs[attempt].tell_again()
        elif self.journal.knows(attempt):
            self._tell_of_tombstone(attempt)
        else:
            run = Run(attempt, Spool(self._spools / attempt), int(spec.get("output_limit") or _MIB))
            reason = self._limits.policy.why_not(spec) or self._why_not()
            self.runs[attempt] = run
            if reason:
                run.refuse(reason)
            else:
                run.state, run.spec = "waiting", spec
                self._advance()

    def go(self, attempt: str) -> None:
        run = self.runs.get(attempt)
        if run is None:
            self._tell_unknown(attempt)
        elif run.state in ("waiting", "preparing"):
            run.is_wanted = True
        elif run.state == "held":
            self._start(run)
        else:
            run.tell_again()

    def cancel(self, attempt: str) -> None:
        run = self.runs.get(attempt)
        if run is None:
            self._tell_unknown(attempt)
        elif run.state == "waiting":
            run.refuse("canceled")
        elif run.is_over:
            run.tell_again()
        else:
            run.spool.tell("cancel")

    def acknowledge(self, attempts: Iterable[str]) -> None:
        """The hub has all of these, or wants nothing of them."""
        gone = []
        for run in (self.runs[attempt] for attempt in dict.fromkeys(attempts) if attempt in self.runs):
            if run.state == "started":
                run.is_forgotten = True
            else:
                if not run.spool.tell("cancel") and run.state == "preparing" and run.keeper:
                    run.keeper.kill()  # it cannot be told yet
                gone.append(run)
        self._forget(gone)

    def asked(self, attempt: str) -> None:
        run = self.runs.get(attempt)
        if run is None:
            self._tell_of_tombstone(attempt)
        else:
            run.tell_again()

    def stored(self, attempt: str, offsets: Message) -> None:
        run = self.runs.get(attempt)
        if run:
            run.stored = {stream: int(offsets[stream]) for stream in STREAMS}

    # What happens here

    def look(self) -> None:
        """See what has become of everything that is not over."""
        self._keepers = [keeper for keeper in self._keepers if keeper.poll() is None]
        for run in list(self.runs.values()):
            if run.is_active:
                self._look_at(run)
        self._forget([run for run in self.runs.values() if run.is_over and run.is_forgotten])
        self._advance()

    def _look_at(self, run: Run) -> None:
        lives = run.spool.tell("") or (run.keeper is not None and run.keeper.poll() is None)
        end = run.spool.end()
        if end is None and not lives:
            end = self._judge(run)
        if end is not None:
            run.end, run.keeper = end, None
            if end.get("refused"):
                run.refuse(str(end["refused"]))
            else:
                run.move("done")
        elif run.spool.has("go"):
            run.move("started")
            run.has_news = True
        elif run.spool.has("ready"):
            run.move("held")
            if run.is_wanted:
                run.is_wanted = False
                self._start(run)

    def _judge(self, run: Run) -> Message:
        """Its keeper is gone, and has not told an end: what can be proved."""
        entry = self.journal.entries.get(run.id, Entry("torn"))
        refused = _ended(run, refused="the agent was restarted, or its keeper killed, before it could start")
        if not run.spool.folder.exists():
            return refused if entry.word == "held" else _ended(run, "gone", "the host's record of it is gone")
        if entry.word != "held" and entry.boot != self._boot:
            return self._keep(run, _ended(run, "rebooted", "the host was rebooted"))
        try:
            is_fenced = run.spool.fence()
        except OSError:
            is_fenced = entry.word == "held"
        if is_fenced:
            run.spool.tell("cancel")  # a keeper that came to life in between
            return self._keep(run, refused)
        is_gone = Tree(run.id).kill()
        more = "" if is_gone else ", and not all of its processes could be ended"
        return self._keep(run, _ended(run, "killed", f"what kept it was killed{more}"))

    def _keep(self, run: Run, end: Message) -> Message:
        with contextlib.suppress(OSError):
            replace_file(run.spool.folder / "end", json.dumps(end).encode())
        return end

    def _why_not(self) -> str:
        """Why nothing new is taken now."""
        if sum(run.state == "waiting" for run in self.runs.values()) >= _MOST_WAITING:
            return f"the agent has {_MOST_WAITING} commands waiting already"
        disk = os.statvfs(self._state)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE:
            return f"no space: the disk of {self._state} is full"
        used = sum(path.stat().st_blocks * 512 for path in self._spools.glob("*/*"))
        if used >= self._limits.spool:
            return f"no space: {used // _MIB} MiB of results wait for the hub, and the agent keeps no more"
        return ""

    def _advance(self) -> None:
        for run in list(self.runs.values()):
            if self.active >= self._limits.commands:
                return
            if run.state == "waiting":
                self._prepare(run)

    def _prepare(self, run: Run) -> None:
        spec, run.spec = run.spec or {}, None
        run.move("preparing")
        try:
            self.journal.write({run.id: Entry("held", self._boot, time.time(), run.limit)})
            run.spool.folder.mkdir(mode=0o700)
            run.keeper = self._hire(run.spool.folder, spec)
        except OSError as error:
            run.refuse(f"no space, or no process: {error.strerror}")

    def _hire(self, folder: Path, spec: Message) -> Any:
        """A keeper, which gets the command through a file without a name."""
        import subprocess

        source = anonymous_file(folder, json.dumps(spec).encode())
        log_file = folder / "log"
        with log_file.open("wb") as log, os.fdopen(source, "rb"):
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "keep", str(folder), *(["scope"] if self._limits.has_scopes else [])],
                stdin=source,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=clean_environment(),
                cwd=folder,
                start_new_session=True,
            )
        self._keepers.append(keeper)
        return keeper

    def _start(self, run: Run) -> None:
        """On the disk first: from here on it may have started."""
        try:
            self.journal.write({run.id: Entry("started", self._boot, time.time(), run.limit)})
        except OSError as error:
            run.reason = f"no space: the agent's journal cannot be written: {error.strerror}"
            run.spool.tell("cancel")
            return
        run.spool.tell("go")

    def _forget(self, runs: list[Run]) -> None:
        if not runs:
            return
        words = {run.id: "refused" if run.state != "done" else "acked" for run in runs}
        entries = {attempt: Entry(word, self._boot, time.time()) for attempt, word in words.items()}
        is_written = self._write(entries)
        for run in runs:
            run.spool.remove()
            del self.runs[run.id]
        if not is_written:
            self._write(entries)  # there is room now, perhaps

    def _write(self, entries: dict[str, Entry]) -> bool:
        try:
            self.journal.write(entries)
        except OSError as error:
            say(f"the journal cannot be written: {error.strerror}")
            return False
        return True

    def _tell_unknown(self, attempt: str) -> None:
        if _ID.fullmatch(attempt):
            self._once["refused"].append({"id": attempt, "reason": "unknown attempt", "unknown": True})

    def _tell_of_tombstone(self, attempt: str) -> None:
        if not self.journal.knows(attempt):
            self._tell_unknown(attempt)
        elif self.journal.entries.get(attempt, Entry("torn")).word == "refused":
            self._once["refused"].append({"id": attempt, "reason": "it was refused before"})
        else:
            gone = {"exit_code": None, "ended": "gone", "error": "it may have run before; its record is not kept", "stdout": 0, "stderr": 0}
            self._once["done"].append({"id": attempt, **gone})

    # What the hub is to hear

    def known(self) -> list[Message]:
        states = {"waiting": "held", "preparing": "held", "started": "running"}
        return [{"id": run.id, "state": states.get(run.state, run.state)} for run in self.runs.values()]

    def pause(self) -> float | None:
        """Seconds until something is to be said; None when nothing is."""
        if any(self._once.values()):
            return 0
        due = [moment for moment in (run.due_at() for run in self.runs.values()) if moment is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def report(self, room: int) -> tuple[Message, dict[str, str]]:
        """What is to be said now, and of which attempts in which state."""
        message: Message = {key: list(told) for key, told in self._once.items()}
        for told in self._once.values():
            told.clear()
        said: dict[str, str] = {}
        now = time.monotonic()
        for run in self.runs.values():
            due = run.due_at()
            if due is not None and due <= now:
                room -= self._report_on(run, message, said, room)
        return {key: told for key, told in message.items() if told}, said

    def _report_on(self, run: Run, message: Message, said: dict[str, str], room: int) -> int:
        """Add what is to be said of one; how much room that takes."""
        word, used, is_all = _WORDS[run.state], 0, True
        if run.state in ("started", "done"):
            pieces, is_all = run.output(room)
            used = sum(len(piece["data_b64"]) * 3 // 4 for piece in pieces)
            message.setdefault("output", []).extend(pieces)
            run.has_news, run.told_at = bool(pieces), time.monotonic()
        if not run.is_noted and (run.state != "done" or is_all):
            facts_of = {"refused": {"id": run.id, "reason": run.reason[:1000]}, "done": run.outcome() if word == "done" else None}
            message.setdefault(word, []).append(facts_of.get(word) or run.id)
            said[run.id] = run.state
            run.said_at = time.monotonic()
        return used

    def take_back(self, message: Message, said: dict[str, str]) -> None:
        """That message may not have arrived."""
        for key, told in self._once.items():
            told.extend(item for item in message.get(key, ()) if item["id"] not in said)
        for run in (self.runs[attempt] for attempt in said if attempt in self.runs):
            run.tell_again()
        for run in self.runs.values():
            run.has_news = True

    def heard(self, said: dict[str, str], noted: Iterable[str]) -> None:
        """The hub has noted what was said of these."""
        for attempt in noted:
            run = self.runs.get(attempt)
            if run and said.get(attempt) == run.state:
                run.is_noted = True


def _ended(run: Run, ended: str | None = None, error: str | None = None, refused: str | None = None) -> Message:
    """An end that the service writes, since nobody else can any more."""
    end: Message = {"exit_code": None, "ended": ended, "error": error, "refused": refused, "started_at": None, "finished_at": None}
    for stream in STREAMS:
        end[stream] = max((end for _, end in run.spool.kept(stream, sys.maxsize, None)), default=0)
    return end


# --- The service ---

_HOLD = 30.0  # seconds that the hub may let a poll wait
_PATIENCE = 30.0  # seconds in which it answers a report
_LITTLE = 64 * 1024  # bytes of output that a poll takes along: while it is under way, nothing comes
_SOON = _MERGE + 0.02  # seconds that the next one waits for what a command just brought, or let go, has to tell
_REFUSED = 3  # the exit code of an agent that the hub does not want
_WAITS = {401: 600.0, 403: 60.0, 409: 60.0, 426: 600.0}  # seconds until the next try, unless the hub says how many
_REJOIN = 5.0  # seconds that `join --replace` has, where the hub has shut the former agent out already, to write the new identity
_NOTE = 5.0  # seconds between two notes on how we stand with the hub, while that stays the same


def settle(state: Path, argv: list[str]) -> None:
    """Go on from a copy in the state folder: so all that this service starts is of one version, and is compiled once.

    Compiling takes more memory than all else. Returns where that is not possible, as on a full disk.
    """
    import py_compile

    source = Path(__file__)
    if source.suffix == ".pyc":
        return
    try:
        replace_file(state / "program.py", source.read_bytes())
        py_compile.compile(str(state / "program.py"), cfile=str(state / "program.pyc"), doraise=True)
    except (OSError, py_compile.PyCompileError) as error:
        say(f"it runs from {source}, and needs more memory: {error}")
        return
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(state / "program.pyc"), *argv])  # noqa: S606  # no shell is needed


class Service:
    """The agent at work: one thread polls, one reports what no poll takes along, and this one looks after the commands."""

    def __init__(self, state: Path, limits: Limits) -> None:
        self._state = state
        self._lock_file = _lock(state)
        self._identity = Identity.load(state)
        self._session = os.urandom(16).hex()
        self._boot = boot_id()
        self._news = _open_news(state)
        self._desk = Desk(state, limits)
        self._has_scopes = limits.has_scopes
        self._changed = threading.Condition()  # also the lock around the desk and the identity
        self._online = threading.Event()  # polls go through
        self._reached = threading.Event()  # one just did
        self._lines = {"poll": Line(self._identity.url), "report": Line(self._identity.url)}
        self._again = dict.fromkeys(self._lines, False)
        self._expects = False  # the next poll takes along what is to be said
        self._is_reporting = False  # something is being said, by either line
        self._room = _ROOM
        self._is_new = True  # the hub does not know this session
        self._facts: Message = {}
        self._facts_at = -_DAY
        self._complained = ""
        self._standing: Message = {}
        self._noted_at = -_DAY
        self._is_too_large = False
        with contextlib.suppress(OSError):  # a full disk: then nobody can tell it to stop
            os.pwrite(self._lock_file, b"%d" % os.getpid(), 0)

    def run(self) -> int:
        """Until a signal says stop; commands live on."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writing)
        say(f"{self._identity}, version {VERSION}, commands at hand: {len(self._desk.runs)}")
        if self._has_scopes and not _MANAGER.exists():
            say("commands get no scopes of their own: there is no systemd here")
        for work in (self._poll, self._report):
            threading.Thread(target=self._guard, args=(work,), daemon=True).start()
        poller = select.poll()
        poller.register(reading, select.POLLIN)
        poller.register(self._news, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poller.poll(1000 if self._desk.active else 10_000)]
            if reading in ready and set(os.read(reading, 100)) & {signal.SIGTERM, signal.SIGINT}:
                break
            if self._news in ready:
                os.read(self._news, 65536)
            self._look()
        with self._changed:  # nobody is half way through the journal
            say("stopped; its commands go on")
            sys.stderr.flush()
            os._exit(0)

    def _guard(self, work: Callable[[], None]) -> None:
        """A thread that breaks takes the service with it, so that whoever watches over it starts it anew."""
        try:
            work()
        except BaseException:  # noqa: BLE001  # whatever it is, the service must not live on without this thread
            import traceback

            traceback.print_exc()
            os._exit(1)

    def _look(self) -> None:
        now = time.monotonic()
        for line in self._lines.values():
            if line.deadline is not None and now > line.deadline:
                line.break_off()
        with self._changed:
            if self._desk.active:
                self._desk.look()
                self._changed.notify_all()
            if self._identity.is_replaced():
                say("this host was enrolled anew; the service begins again")
                os.execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv])  # noqa: S606  # no shell is needed

    def _poll(self) -> None:
        """Ask what there is to do. A short command needs no second connection: polls take along what the last answer has brought about."""
        quick = 0
        backoff = Backoff()
        while True:
            with self._changed:
                news, said = self._await_news()
                wait = _HOLD if self._online.is_set() and not self._is_new else 0  # reports wait to hear that the hub is there
                message = {**self._base(), **news, "wait": wait, "telemetry": telemetry(self._state, self._desk.active)}
            began = time.monotonic()
            answer = self._sync("poll", message, backoff, _PATIENCE if news else _HOLD + 15)
            asked = (answer or {}).get("poll")
            pause = min(float(asked), 600.0) if isinstance(asked, (int, float)) else 0.0
            brings = bool(answer and (answer.get("commands") or answer.get("go")))
            self._hear(answer, news, said, expects=brings and not pause)
            if answer is None:
                continue
            quick = quick + 1 if wait and not (news or brings) and time.monotonic() - began < 0.05 else 0
            time.sleep(max(pause, min(1.0, quick * 0.02)))

    def _report(self) -> None:
        """Say what is to be said while a poll is held."""
        backoff = Backoff()
        while True:
            self._online.wait()
            with self._changed:
                news, said = ({}, {}) if self._expects else self._gather(self._room)
                if not news:
                    self._changed.wait(None if self._expects else self._pause())
                    continue
                message = {**self._base(), **news}
            self._hear(self._sync("report", message, backoff, _PATIENCE), news, said)

    def _await_news(self) -> tuple[Message, dict[str, str]]:
        """What the next poll takes along, for which it waits a moment where the last answer has brought something about."""
        until = time.monotonic() + _SOON
        news: tuple[Message, dict[str, str]] = {}, {}
        while self._expects and self._online.is_set() and not (self._is_new or self._again["report"]):
            news = self._gather(_LITTLE)
            left, pause = until - time.monotonic(), self._pause()
            if news[0] or left <= 0:
                break
            self._changed.wait(left if pause is None else min(left, pause))
        self._expects = False
        self._changed.notify_all()
        return news

    def _gather(self, room: int) -> tuple[Message, dict[str, str]]:
        """What is to be said now, and of which attempts in which state; nothing while something is being said."""
        if self._is_reporting:
            return {}, {}
        news, said = self._desk.report(min(room, self._room))
        self._is_reporting = bool(news)
        return news, said

    def _pause(self) -> float | None:
        """Seconds until something is to be said; None when nothing is before something happens."""
        return None if self._is_reporting else self._desk.pause()

    def _hear(self, answer: Message | None, news: Message, said: dict[str, str], *, expects: bool = False) -> None:
        """Do what an answer says; where none came, its news are to be told again."""
        with self._changed:
            self._expects = self._expects or expects
            if news:
                self._is_reporting = False
                self._room = _ROOM if answer is not None else max(self._room // 2, 4096) if self._is_too_large else self._room
            if answer is not None:
                self._absorb(answer, said)
            elif news:
                self._desk.take_back(news, said)
            self._changed.notify_all()

    def _sync(self, name: str, message: Message, backoff: Backoff, patience: float) -> Message | None:
        """One message and its answer; None after a failure, when it is time to try again."""
        if self._again[name]:
            message["again"] = True
        with self._changed:
            token = self._identity.token
            message.update(self._identity.claims)
        try:
            hold = _HOLD if name == "poll" and self._standing.get("state") == "pending" else 0.0
            answer = self._lines[name].ask("/agent/v1/sync", message, token=token, patience=patience, hold=hold)
        except HubError as error:
            if error.status == 401 and token != self._identity.token:
                return None  # the other line has got a newer credential meanwhile
            self._wait_after(name, error, backoff, was_held=hold > 0)
            return None
        except OSError as error:
            self._complain(f"the hub cannot be reached: {error.strerror or error}")
            self._note(trouble=self._complained)
            self._again[name] = True
            self._rest(name, backoff.next())
            return None
        backoff.reset()
        self._again[name] = False
        with self._changed:
            if "known" in message:
                self._is_new = False
            self._obey_identity(answer)
        self._complain("")
        self._note("approved")
        if name == "poll":
            self._online.set()
            self._reached.set()
        return answer

    def _obey_identity(self, answer: Message) -> None:
        try:
            self._identity.change(is_new=None)
            if self._identity.obey(answer):
                self._is_new = True
                say(f"from now on this is {self._identity}")
        except OSError as error:  # what holds is what is on the disk
            say(f"the identity cannot be written: {error.strerror}")
        except (KeyError, TypeError, ValueError) as error:
            say(f"the hub sent an identity that cannot be read: {error!r}")

    def _wait_after(self, name: str, error: HubError, backoff: Backoff, *, was_held: bool) -> None:
        self._is_too_large = error.status == 413
        self._complain(f"the hub says: {error.reason}")
        self._note(error.state or self._standing.get("state", ""), trouble=self._complained)
        if error.status == 403 and error.retry is None:
            self._stop_for_good()
        if error.status in _WAITS:
            self._online.clear()
            self._is_new = True
        is_early = error.status == 401 and self._identity.is_new
        wait = _WAITS.get(error.status) if error.retry is None and not is_early else error.retry
        if error.state == "pending" and not was_held:
            wait = 0.0  # now that this is known, the hub may hold the next call until it is decided
        self._rest(name, backoff.next() if wait is None else wait * (1 + chance() / 10) + 0.05)

    def _stop_for_good(self) -> None:
        """Unless this host is just being enrolled anew, which shuts its former agent out."""
        until = time.monotonic() + _REJOIN
        while time.monotonic() < until:
            if self._identity.is_replaced():
                self._call_itself()
                return
            time.sleep(0.1)
        say("stopped, since the hub refuses this agent for good; its commands go on. `join --replace` enrols this host anew, then start it")
        os._exit(_REFUSED)

    def _call_itself(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._news, b".")

    def _note(self, state: str = "", *, trouble: str = "") -> None:
        """Write down how we stand with the hub, for `status`; `state` is what an answer said of us."""
        with self._changed:
            former = self._standing
            known: Message = {"state": state, "answered_at": time.time()} if state else former
            self._standing = {**known, "trouble": trouble, "version": VERSION}
            is_same = (former.get("state"), former.get("trouble")) == (self._standing.get("state"), trouble)
            if is_same and time.monotonic() - self._noted_at < _NOTE:
                return
            self._noted_at = time.monotonic()
            new = self._state / "standing.new"
            with contextlib.suppress(OSError):  # no fsync: after a power cut nobody asks
                new.write_text(json.dumps(self._standing))
                new.replace(self._state / "standing")

    def _rest(self, name: str, seconds: float) -> None:
        """Reports go on as soon as a poll has gone through; while polls fail, there are none."""
        if name == "report":
            self._reached.clear()
            self._reached.wait(seconds)
        else:
            self._online.clear()
            time.sleep(seconds)

    def _base(self) -> Message:
        message: Message = {
            "v": PROTOCOL,
            "boot": self._boot,
            "session": self._session,
            "version": VERSION,
            "free": self._desk.free,
        }
        if self._is_new or time.monotonic() - self._facts_at > 600:
            found = facts()
            self._facts_at = time.monotonic()
            if self._is_new or found != self._facts:
                self._facts = message["facts"] = found
        if self._is_new:
            message.update(known=self._desk.known(), machine=machine(self._state))
        return message

    def _absorb(self, answer: Message, said: dict[str, str]) -> None:
        """Do what the hub says."""
        desk = self._desk
        self._is_new = self._is_new or answer.get("tell") is True
        for key, act in (
            ("stored", lambda item: desk.stored(item["id"], item)),
            ("noted", lambda item: desk.heard(said, [item])),
            ("commands", desk.take),
            ("cancels", desk.cancel),
            ("go", desk.go),
            ("ask", desk.asked),
        ):
            for item in answer.get(key) or ():
                _obey(act, item, key)
        desk.acknowledge([item for item in answer.get("acks") or () if isinstance(item, str)])
        desk.look()
        self._changed.notify_all()
        self._call_itself()  # from now on the commands are looked after more often

    def _complain(self, text: str) -> None:
        """Once, not with each try."""
        if text != self._complained:
            say(text or "the hub answers")
            self._complained = text


def _obey(act: Callable[[Any], None], item: Any, what: str) -> None:
    try:
        act(item)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        say(f"the hub sent {what} that cannot be read: {error!r}")


def _lock(state: Path) -> int:
    """The right to be the only agent that uses this folder."""
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = _service(state)
        ends = "systemctl stop fleetflow-agent" if _is_unit(pid) else "stop"
        raise UsageError(f"the service of {state} runs already{_as_process(pid)}; `{ends}` ends it") from None
    os.ftruncate(fd, 0)
    return fd


def _service(state: Path) -> int:
    """The process id of the service that uses this folder, or 0. Who tried its lock could keep one from starting."""
    word = read_word(state / "lock")
    locks = (line.split() for line in read_word(Path("/proc/locks")).splitlines())
    return int(word) if word in {fields[4] for fields in locks if fields[1] == "FLOCK"} else 0


def _as_process(pid: int) -> str:
    return f", as process {pid}" if pid else ""


def _is_unit(pid: int) -> bool:
    """Whether systemd looks after the service."""
    return "/fleetflow-agent.service" in read_word(Path(f"/proc/{pid}/cgroup"))


def _open_news(state: Path) -> int:
    path = state / "news"
    if not path.is_fifo():
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


# --- What people type ---


def machine(state: Path) -> str:
    """What tells this machine from others; machine-id(5) asks not to be shown itself."""
    known = read_word(Path("/etc/machine-id")) or read_word(state / "machine")
    if not known:
        known = os.urandom(16).hex()
        replace_file(state / "machine", known.encode())
    return sha256(f"fleetflow-agent {known}")


def sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def join(state: Path, hub: str, token: str, name: str, fingerprint: str | None, *, replaces: bool) -> None:
    """Enrol this host, and keep its credential."""
    url = HubUrl(hub, fingerprint)
    path = state / "identity"
    if path.exists() and not replaces:
        raise UsageError(f"this host is enrolled already, as {Identity.load(state)}; --replace enrols it anew")
    if token == "-":  # noqa: S105  # the sign for stdin
        token = sys.stdin.readline().strip()
    about = {"machine": machine(state), "version": VERSION, "facts": facts()}
    with contextlib.closing(Line(url)) as line:
        answer = line.ask("/agent/v1/join", {"v": PROTOCOL, "token": token, "name": name, **about})
    kept = {"hub": hub, "fingerprint": url.fingerprint, "name": name, "generation": answer.get("generation", 1)}
    identity = Identity(path, {**kept, "agent": answer["agent"], "credential": answer["credential"]})
    identity.save()
    call_service(state)
    is_pending = answer.get("state") == "pending"
    sys.stdout.write(f"enrolled as {identity}: {'pending, until somebody approves it there' if is_pending else 'approved'}\n")


def enrol(state: Path, hub: str, fingerprint: str | None) -> None:
    """Make a credential here, and print what the hub is to know of it, which is no secret. Another time it prints the same."""
    url = HubUrl(hub, fingerprint)
    path = state / "identity"
    if path.exists():
        identity = Identity.load(state)
        if identity.hub != hub:
            raise UsageError(f"this host is enrolled already, as {identity}; `leave` ends that")
        identity.change(fingerprint=url.fingerprint)
    else:
        import uuid

        made = {"agent": str(uuid.uuid4()), "credential": os.urandom(32).hex(), "generation": 1, "is_new": True}
        identity = Identity(path, {"hub": hub, "fingerprint": url.fingerprint, "name": socket.gethostname(), **made})
        identity.save()
    agent, _, credential = identity.token.partition(".")
    told = {"agent": agent, "digest": sha256(credential), "machine": machine(state), "version": VERSION}
    sys.stdout.write(f"{json.dumps(told)}\n")


_UNIT = """[Unit]
Description=fleetflow agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart="{python}" -I -S "{program}" run --state "{state}" --scopes
Restart=always
RestartSec=5
RestartPreventExitStatus=2 3
# Its commands have scopes of their own, fleetflow-ATTEMPT.scope. Where they get none, they outlive the service all the same: a stop,
# a restart and an upgrade leave them running, and so does one that takes too much memory.
KillMode=process
OOMPolicy=continue
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


def unit(state: Path) -> None:
    """Print the service as systemd wants it."""
    words = {"python": sys.executable, "program": str(Path(__file__).resolve()), "state": str(state)}
    sys.stdout.write(_UNIT.format(**{key: _quoted(word) for key, word in words.items()}))


def _quoted(word: str) -> str:
    """A word between quotes in a command line of systemd (systemd.service(5))."""
    for sign, instead in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(sign, instead)
    return word


def start(state: Path) -> None:
    """Run the service in the background, without a systemd to look after it. Raises `UsageError` when it does not come to life."""
    import subprocess

    if pid := _service(state):
        sys.stdout.write(f"it runs already{_as_process(pid)}\n")
        return
    log = state / "log"
    with contextlib.suppress(FileNotFoundError):
        log.replace(state / "log.1")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), "run", "--state", str(state)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=clean_environment(),
            cwd="/",
            start_new_session=True,
        )
    while process.poll() is None:
        if read_word(state / "lock") == str(process.pid):
            process.returncode = 0  # it is not ours any more
            sys.stdout.write(f"it runs{_as_process(process.pid)}, and says in {log} how it goes\n")
            return
        time.sleep(0.02)
    last = ([*read_word(log).splitlines()] or ["it said nothing"])[-1]
    raise UsageError(f"it does not start: {last[len(_PREFIX) :] if last.startswith(_PREFIX) else last}"[:300])


_PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


def stop(state: Path) -> None:
    """End the service if there is one; its commands live on."""
    if _is_unit(_service(state)):
        say("systemd starts it again; `systemctl stop fleetflow-agent` ends it for longer")
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    number, kill_at = signal.SIGTERM, time.monotonic() + _PATIENCE
    asked = 0
    try:
        while not _is_free(fd):
            word = os.pread(fd, 20, 0).strip()
            pid = int(word) if word.isdigit() else 0
            if time.monotonic() > kill_at + _PATIENCE:
                raise UsageError(f"the agent that uses {state} does not end")
            if time.monotonic() > kill_at:
                number = signal.SIGKILL
            if pid > 1 and (asked != pid or number is signal.SIGKILL):  # who holds the lock has written this
                asked = pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.02)
    finally:
        os.close(fd)


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_KEPT = ("identity", "journal", "machine", "news", "standing", "program.py", "program.pyc", "log", "log.1", "lock")
_LEAVE = 30.0  # seconds that commands have to end


def leave(state: Path) -> None:
    """End the service and its commands, and remove all that is kept; what else lies in the folder stays."""
    stop(state)
    lock = _lock(state)
    folder = state / "spool"
    spools = [Spool(path) for path in folder.iterdir()] if folder.is_dir() else []
    for spool in spools:
        spool.tell("cancel")
    until = time.monotonic() + _LEAVE
    while time.monotonic() < until and any(spool.tell("") for spool in spools):
        time.sleep(0.05)
    for spool in spools:
        Tree(spool.folder.name).kill()
        spool.remove()
    for name in _KEPT:
        with contextlib.suppress(FileNotFoundError):
            (state / name).unlink()
    for empty in (folder, state):
        with contextlib.suppress(OSError):
            empty.rmdir()
    os.close(lock)


_STANDINGS = {
    "approved": "approved",
    "pending": "pending: it gets no commands before `fleetflow agent approve {name}`, there",
    "rejected": "rejected: `join --replace` enrols this host anew",
    "revoked": "revoked: `join --replace` enrols this host anew",
    "unknown": "not known there, or no more",
}


def status(state: Path) -> int:
    """How this agent stands with its hub, and what it holds; 1 when its service does not run."""
    identity = Identity.load(state)
    pid = _service(state)
    journal = state / "journal"
    held = _held(journal.read_bytes() if journal.exists() else b"")
    rows = {attempt: _condition(Spool(state / "spool" / attempt), word) for attempt, word in held.items()}
    count = {word: sum(what.startswith(word) for what in rows.values()) for word in ("running", "held", "ended")}
    try:
        standing = json.loads((state / "standing").read_bytes())
    except (OSError, ValueError):
        standing = {}
    runs = f"the service runs{_as_process(pid)}, version {standing.get('version', VERSION)}"
    lines = [
        str(identity),
        _standing(identity, standing),
        runs if pid else f"the service does not run, and nothing is told: `start` starts it, or its unit of systemd (version {VERSION})",
        f"{count['running']} running, {count['held']} held, {count['ended']} ended that the hub has not acknowledged",
        *(f"{attempt} {what}" for attempt, what in rows.items()),
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if pid else 1


def _standing(identity: Identity, standing: Message) -> str:
    known = _STANDINGS.get(standing.get("state", ""), "").format(name=identity.name)
    answered = f"the hub answered {_span(time.time() - standing['answered_at'])} ago" if known else "the hub has not answered yet"
    trouble = standing.get("trouble") if standing.get("state") in (None, "approved", "unknown") else ""
    return "; ".join(part for part in (known, answered, trouble) if part)


def _condition(spool: Spool, word: str) -> str:
    """What has become of an attempt of which the journal says this word."""
    end = spool.end()
    if end is not None and end.get("refused"):
        return f"refused: {end['refused']}"
    if end is not None:
        return (
            f"ended: {end.get('ended') or 'exit {}'.format(end.get('exit_code'))}, {_span(time.time() - (end.get('finished_at') or 0))} ago"
        )
    if not spool.tell(""):
        return f"{word}, and nobody keeps it"
    started = _stamp(spool.folder / "go")
    return f"running for {_span(time.time() - started[1] / 1e9)}" if started else "held"


def _span(seconds: float) -> str:
    """How long that is, in one number."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{max(0, seconds) / size:.0f} {unit}"
    return f"{seconds / _DAY:.0f} days"


def _held(raw: bytes) -> dict[str, str]:
    """The attempts of a journal that nobody has acknowledged."""
    words: dict[str, str] = {}
    for line in raw.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            words[str(record["id"])] = str(record["is"])
    return {attempt: word for attempt, word in words.items() if word not in ("acked", "refused") and _ID.fullmatch(attempt)}


def _state_folder(given: str | None) -> Path:
    """The folder of this agent, which is nobody else's."""
    usual = Path("/var/lib/fleetflow-agent") if os.geteuid() == 0 else Path.home() / ".fleetflow" / "agent"
    state = Path(given).absolute() if given else usual
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state.stat().st_uid != os.geteuid():
            raise UsageError(f"{state} is another user's")
        state.chmod(0o700)
    except OSError as error:
        raise UsageError(f"{state}: {error.strerror}") from None
    return state


def _policy_file(given: str | None, state: Path) -> Path:
    if given:
        return Path(given).absolute()
    return Path("/etc/fleetflow-agent/policy") if os.geteuid() == 0 else state / "policy"


def _read_arguments(argv: list[str]) -> Any:
    import argparse

    parser = argparse.ArgumentParser(prog="program.py", description="The agent of fleetflow.")
    parser.add_argument("--version", action="version", version=VERSION)
    verbs = parser.add_subparsers(dest="verb", required=True)
    joins = verbs.add_parser("join", help="enrol this host with a join token")
    joins.add_argument("--token", required=True, help="the join token; - reads it from stdin")
    joins.add_argument("--name", default=socket.gethostname(), help="the name of this host (default: %(default)s)")
    joins.add_argument("--replace", action="store_true", help="forget an earlier enrolment")
    enrols = verbs.add_parser("enrol", help="make a credential, and print what the hub is to know of it")
    for verb in (joins, enrols):
        verb.add_argument("--hub", required=True, metavar="URL", help="the address of the hub")
        verb.add_argument(
            "--fingerprint", metavar="SHA256", help="of the hub's certificate (default: it must be one that this host trusts)"
        )
    serve = verbs.add_parser("run", help="fetch commands and run them, until SIGTERM")
    serve.add_argument("--commands", type=int, default=4, metavar="N", help="commands at once (default: 4)")
    serve.add_argument("--spool", type=int, default=512, metavar="MIB", help="results kept for the hub, in MiB (default: 512)")
    serve.add_argument("--scopes", action="store_true", help="start each command in a scope of systemd of its own; root alone may")
    serve.add_argument(
        "--policy",
        metavar="FILE",
        help="what may run here (default: /etc/fleetflow-agent/policy for root, else STATE/policy, if it is there)",
    )
    helps = {
        "status": "show what this host holds",
        "start": "run the service in the background",
        "stop": "end the service; its commands live on",
        "leave": "end the service and its commands, and remove what it keeps",
        "unit": "print the service as a unit of systemd",
    }
    for verb in (joins, enrols, serve, *(verbs.add_parser(name, help=text) for name, text in helps.items())):
        verb.add_argument(
            "--state", metavar="DIR", help="where it keeps everything (default: /var/lib/fleetflow-agent, or ~/.fleetflow/agent)"
        )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    if argv[:1] == ["keep"]:
        keep(Path(argv[1]), in_scope=argv[2:] == ["scope"])
        return 0
    given = _read_arguments(argv)
    os.umask(0o077)
    try:
        state = _state_folder(given.state)
        if given.verb == "run":
            settle(state, argv)
            policy = Policy(_policy_file(given.policy, state), is_required=given.policy is not None)
            return Service(state, Limits(max(1, given.commands), max(1, given.spool) * _MIB, policy, given.scopes)).run()
        if given.verb == "join":
            join(state, given.hub, given.token, given.name, given.fingerprint, replaces=given.replace)
        elif given.verb == "enrol":
            enrol(state, given.hub, given.fingerprint)
        else:
            return {"status": status, "start": start, "stop": stop, "leave": leave, "unit": unit}[given.verb](state) or 0
    except UsageError as error:
        say(str(error))
        return 2
    except HubError as error:
        say(f"the hub says: {error.reason}")
        return 1
    except OSError as error:
        say(f"the hub cannot be reached: {error.strerror or error}" if given.verb == "join" else str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
