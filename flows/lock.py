"""Locks that a process holds for its whole life, so that others know at once when it has ended, however it did."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import UnavailableError


def is_free(path: Path) -> bool:
    """Whether the process that made the lock at `path` has certainly ended; a missing file says nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def hold_life(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock of this life alone, named by the process's incarnation; the file goes when the process ends in good order."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    with hold(path):
        yield
        path.unlink(missing_ok=True)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at `path` until the process ends, however it ends; raises `UnavailableError` when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UnavailableError(f"folder {path.parent}", f"already has a worker (process {holder}); one is enough") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
