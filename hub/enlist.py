"""Makes agents hosts of the inventory: `python -m hub.enlist HOME SSH_CONFIG`, their names on stdin, a list in JSON.

Says on stdout which names are reached otherwise, and by what, an object in JSON. A process of its own, since it reads all of the inventory:
of ten thousand hosts that is a second of the processor and 30 MiB, which a hub would take from its agents.
"""

import json
import sys
from pathlib import Path

from models.lasting import lasting


def main(home: str, ssh_config: str) -> None:
    """Read names, and write them into the inventory; an error of ours becomes one line and its exit code."""
    with lasting():
        from models.enlisting import enlist
        from models.errors import FleetflowError
    try:
        known = enlist(Path(home), json.load(sys.stdin), Path(ssh_config))
    except FleetflowError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the hub logs this line
        raise SystemExit(error.exit_code) from None
    json.dump(known, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
