"""A machine of its own for tests that need a real systemd: pid 1 of new namespaces, over this machine's files.

What it writes to /etc, /usr/local/lib and /var/lib lies in memory, and outlives a power cut there. The network and all other files are
this machine's.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.executors.processes import children
from tests.programs import do_without, need, need_root
from tests.until import until

# No unit of this machine, and nothing that makes some: only names that a service of ours leans on. It starts again after a power cut.
_DISK = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$1"
for folder in /etc /usr/local/lib /var/lib; do
    mkdir -p "$1/up$folder" "$1/work$folder"
    mount -t overlay -o "lowerdir=$folder,upperdir=$1/up$folder,workdir=$1/work$folder" none "$folder"
done
for folder in /etc/systemd/system /usr/lib/systemd/system /usr/lib/systemd/system-generators; do
    mount -t tmpfs -o mode=755 none "$folder"
done
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
cd /usr/lib/systemd/system
for target in sysinit basic multi-user network-online shutdown; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >"$target.target"
done
while
    unshare --mount --pid --fork --kill-child sh -c "$3" sh "$1" "$2" || true
    rm "$1.cut" 2>/dev/null
do :; done
"""
_BOOT = """
set -eu
mount -t proc none /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
cat /proc/sys/kernel/random/uuid >"$1/boot"
mount --bind "$1/boot" /proc/sys/kernel/random/boot_id
mount -t tmpfs -o mode=755 none /run
mkdir /run/sshd
exec env -i container=test PATH="$PATH" "$2" --system --unit=multi-user.target --log-target=console --show-status=0
"""
_SYSTEMD = "/lib/systemd/systemd"


@dataclass
class Machine:
    """A machine that runs."""

    _process: "subprocess.Popen[bytes]"  # in which it lives
    _folder: Path
    pid: int = 0  # of its systemd, as it is seen from here

    def boot(self) -> None:
        """Wait until it runs."""
        self.pid = _wait_for_systemd(self._process, _beside(self._folder, "log"), self.pid)

    def lose_power(self) -> None:
        """End all that runs there, and start it again with the disk that it had."""
        _beside(self._folder, "cut").touch()
        os.kill(self.pid, signal.SIGKILL)
        self.boot()

    def __call__(self, *line: str) -> str:
        """Run something there to its end; what it says."""
        done = subprocess.run([*self.enter, *line], capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def enter(self) -> list[str]:
        """What stands in front of a command line that is to run there."""
        return _enter(self.pid)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self("systemctl", "show", "--value", "--property", name, unit).strip()


@contextmanager
def run_machine(folder: Path) -> Iterator[Machine]:
    """Start one, with a folder in which nothing else is; end it with all that runs there."""
    need_root("only root can start a machine of its own")
    need("unshare"), need("nsenter"), need("systemctl")
    group = _make_group()
    line = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]
    line += ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"]
    with _beside(folder, "log").open("wb") as said:
        process = subprocess.Popen([*line, "sh", "-c", _DISK, "sh", str(folder), _SYSTEMD, _BOOT], stdout=said, stderr=said)
    machine = Machine(process, folder)
    try:
        machine.boot()
        yield machine
    finally:
        process.kill()
        process.wait(10)
        until(lambda: _remove(group), 10, f"the end of everything in {group}")


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f"{folder.name}.{what}")


def _enter(pid: int) -> list[str]:
    return ["nsenter", "--all", "--target", str(pid), "--"]


def _make_group() -> Path:
    """A control group for its processes, which is the root of all those that it sees."""
    roots = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    root = next((root for root in roots if (root / "cgroup.controllers").exists() and os.access(root, os.W_OK)), None)
    if root is None:
        do_without("there are no control groups of version 2 that we may write")
    return Path(tempfile.mkdtemp(prefix="fleetflow-test-", dir=root))


def _wait_for_systemd(process: "subprocess.Popen[bytes]", log: Path, former: int) -> int:
    def find() -> int:
        if process.poll() is not None:
            do_without(f"no namespace with a systemd of its own is to be had here: {log.read_text()[-500:]}")
        pid = process.pid
        for _ in range(3):  # the shell that looks after it, `unshare`, and itself
            below = children(pid)
            if not below:
                return 0  # and not what has no parent: that is the first process of this machine itself
            pid = below[0]
        with suppress(OSError):
            if pid == former or Path(f"/proc/{pid}/exe").readlink() != Path(_SYSTEMD).resolve():
                return 0
            asked = subprocess.run([*_enter(pid), "systemctl", "is-system-running"], capture_output=True, text=True, check=False)
            return pid if asked.stdout.strip() in ("running", "degraded") else 0
        return 0

    return until(find, 30, "a systemd that runs", every=0.1)


def _remove(group: Path) -> bool:
    """Remove a control group and those below; False while something runs there."""
    try:
        for below in sorted(group.rglob("*/"), reverse=True):
            below.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True
