"""Unix sockets in folders whose paths are longer than a socket's address may be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 107  # bytes of sun_path (unix(7)), its closing NUL left out


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """An address for bind or connect: the path itself, or the same file through a descriptor of its folder."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
