"""The worker as a process of the local stack: `python -m flows.serve LIFELINE`.

While Prefect's server starts, this process imports and brings our database up to date; then it makes what the server
lacks, and serves.
"""

import asyncio
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from models.lasting import lasting
from models.lifeline import end_with

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from models.settings import Settings

_OURS, _FOREIGN = 100.0, 10.0  # seconds that our own server, and somebody else's, have to answer


def main(lifeline: int) -> None:
    """Serve until a signal comes or the lifeline ends; an error of ours becomes one line and its exit code."""
    setproctitle("fleetflow worker")
    end_with(lifeline)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # what `nohup` and background jobs ignore, the commands of localhost must not
    from models.errors import FleetflowError  # after the lifeline: what follows imports for seconds

    try:
        asyncio.run(_serve())
    except FleetflowError as error:
        print(f"fleetflow worker: {error}", file=sys.stderr)  # noqa: T201 - the stack shows this line
        raise SystemExit(error.exit_code) from None


async def _serve() -> None:
    with lasting():
        from prefect.client.orchestration import get_client

        from flows import blocks, context, deploy  # noqa: F401 - the context brings the executors, while the server starts
        from flows.engine import soften
        from flows.worker import FleetflowWorker
        from models import database
        from models.settings import Settings
        from models.store import Store

    logging.getLogger("flows").setLevel(logging.INFO)
    settings = Settings.load()
    database.upgrade(settings.database)
    store = Store.open(settings.database)
    identity = store.identity()
    store.close()
    async with get_client() as client:
        await _greet(client, settings)
        soften(client)
        await deploy.prepare_work_pool(
            client,
            settings.work_pool,
            FleetflowWorker.get_default_base_job_template(),
            identity,
            ours=settings.prefect_api_url is None,
        )
        await deploy.deploy(client, settings.work_pool)
        await blocks.register(client)
    worker = FleetflowWorker(work_pool_name=settings.work_pool)
    worker.needs_socket = True
    await worker.start(printer=_say)


async def _greet(client: "PrefectClient", settings: "Settings") -> None:
    """Wait for our own server; of another's API we expect that it is there, and say what is wrong with it."""
    import httpx

    from flows.patience import patiently
    from models.errors import UnavailableError

    what = f"Prefect at {client.api_url}"
    try:
        async with asyncio.timeout(_FOREIGN if settings.prefect_api_url else _OURS):
            await patiently(client.hello)
    except TimeoutError:
        raise UnavailableError(what, "does not answer") from None
    except httpx.HTTPStatusError as error:
        login = error.response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
        raise UnavailableError(what, "refuses our login; set prefect_api_auth to user:password" if login else str(error)) from None


def _say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)  # noqa: T201 - into the stack's log


if __name__ == "__main__":
    main(int(sys.argv[1]))
