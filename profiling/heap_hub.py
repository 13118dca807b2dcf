"""A hub that says how much memory is in use: bytes, in the file `heap` of its home, again and again.

With PYTHONMALLOC=malloc all that Python and the libraries hold is the C library's to count, without the pages that it keeps for later:
those come and go by chance, and hide a leak for minutes. SQLite's caches, which fill with the database, are held small for the same reason.
"""

import ctypes
import gc
import os
import sys
import threading
import time
from pathlib import Path

from hub.serve import main

_EVERY = 0.5  # seconds; each look goes through all objects
_CACHE = 64  # KiB of each connection to SQLite


class _Figures(ctypes.Structure):
    """Struct mallinfo2 (man 3 mallinfo)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


def _tell(path: Path) -> None:
    look = ctypes.CDLL(None).mallinfo2
    look.restype = _Figures
    while True:
        gc.collect()
        figures = look()
        draft = path.with_suffix(".new")
        draft.write_text(str(figures.uordblks + figures.hblkhd))
        draft.replace(path)
        time.sleep(_EVERY)


if __name__ == "__main__":
    threading.Thread(target=_tell, args=(Path(os.environ["FLEETFLOW_HOME"]) / "heap",), daemon=True).start()
    main(int(sys.argv[1]), int(sys.argv[2]), cache_kib=_CACHE)
