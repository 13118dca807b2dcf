"""The flow `run-script`: one script on the hosts of a target."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.forms import with_parameters_of
from flows.nowhere import NOWHERE
from flows.run_command import name_of_run, run_command


@flow(name="run-script", flow_run_name=name_of_run, retries=0, persist_result=False, result_storage=NOWHERE, log_prints=False)
@with_parameters_of(run_command.fn, but="command")
async def run_script(
    script: str,
    target: str = "localhost",
    interpreter: str = "",
    arguments: list[str] = [],  # noqa: B006 - Prefect shows the default in its form; it is never changed
    script_name: str = "",
    **shared: Any,
) -> State[None]:
    """Run a script on every host of a target, and keep each host's outcome and output. It is never a file on the hosts.

    Args:
        script: The text of the script. Its `#!` line says which program reads it.
        target: Which hosts: `web[01-20],@db,!web07`, `@prod&@web`, `tag:dc=ams`, `root@10.0.0.1:2222`, `localhost`.
        interpreter: The program that reads the script, as it stands behind `#!`: `/usr/bin/env python3`. Empty: as the script's own
            `#!` line says; without one /bin/sh.
        arguments: What the script is given as its arguments, one an entry.
        script_name: What the script is called in lists.
        **shared: All else that `run-command` takes.
    """
    return await run_command.fn(
        script=script, target=target, interpreter=interpreter, arguments=arguments, script_name=script_name, **shared
    )
