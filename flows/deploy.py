"""The work pool and the deployments of a stack; made when they are missing, brought up to date when this program is newer."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint

from flows.patience import patiently
from models.errors import UnavailableError
from models.poolmark import database_of, describe

MANY = 100  # more than 25 workers run with the usual `flow_runs`: theirs is the limit that is felt


@dataclass(frozen=True)
class Deployment:
    """A flow that people can start; prefect.yaml says the same for `prefect deploy`."""

    name: str
    entrypoint: str  # dotted: Prefect treats only that as a module that is installed where the flow runs
    description: str
    tags: tuple[str, ...] = ()
    cron: str = ""  # the schedule that it is made with; afterwards it is people's
    limit: int = MANY  # runs at the same time, of all workers; more wait. As with the schedule


DEPLOYMENTS = (
    Deployment(
        name="fleet",
        entrypoint="flows.run_command.run_command",
        description="Run a shell command on the hosts of a target.",
        tags=("fleetflow",),
    ),
    Deployment(
        name="fleet",
        entrypoint="flows.run_script.run_script",
        description="Run a script on the hosts of a target.",
        tags=("fleetflow", "script"),
    ),
    Deployment(
        name="fleet",
        entrypoint="flows.maintenance.reap_lost",
        description="End what dead workers left, so that nothing shows Running for ever.",
        tags=("fleetflow", "maintenance"),
        cron="* * * * *",
        limit=10,
    ),
)


async def prepare_work_pool(client: PrefectClient, name: str, template: dict[str, object], database: str, *, ours: bool) -> None:
    """Make the work pool, and write on it which database its results go to.

    A pool of a foreign API (not `ours`) that names another database is refused with `UnavailableError`: two stacks would
    take each other's runs.
    """
    description = describe(database)
    pool = await _read_pool(client, name) or await _create_pool(client, name, template, description)
    named = database_of(pool.description or "")
    if named == database:
        return
    if named and not ours:
        raise UnavailableError(f"work pool {name!r}", f"belongs to the stack with database {named}; name another in FLEETFLOW_WORK_POOL")
    await patiently(lambda: client.update_work_pool(name, WorkPoolUpdate(description=description)))


async def _read_pool(client: PrefectClient, name: str) -> WorkPool | None:
    try:
        return await patiently(lambda: client.read_work_pool(name))
    except ObjectNotFound:
        return None


async def _create_pool(client: PrefectClient, name: str, template: dict[str, object], description: str) -> WorkPool:
    pool = WorkPoolCreate(name=name, type="fleetflow", base_job_template=template, description=description)
    try:
        return await patiently(lambda: client.create_work_pool(pool))
    except ObjectAlreadyExists:
        return await patiently(lambda: client.read_work_pool(name))


async def deploy(client: PrefectClient, work_pool: str, deployments: Sequence[Deployment] = DEPLOYMENTS) -> None:
    """Make or renew deployments. Schedules, pauses and default parameters that people have set stay as they are."""
    for deployment in deployments:
        flow: Flow[..., object] = load_flow_from_entrypoint(deployment.entrypoint, use_placeholder_flow=False)
        schema = flow.parameters.model_dump(exclude_unset=True)
        existing = await _read_deployment(client, f"{flow.name}/{deployment.name}")
        if existing is None:
            await _create(client, deployment, flow.name, schema, work_pool)
        elif _differs(existing, deployment, schema, work_pool):
            await _renew(client, existing, deployment, schema, work_pool)


async def _read_deployment(client: PrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return await patiently(lambda: client.read_deployment_by_name(name))
    except ObjectNotFound:
        return None


def _differs(existing: DeploymentResponse, deployment: Deployment, schema: dict[str, object], work_pool: str) -> bool:
    return (
        existing.parameter_openapi_schema != schema
        or existing.entrypoint != deployment.entrypoint
        or existing.description != deployment.description
        or existing.work_pool_name != work_pool
        or existing.version != version("fleetflow")
        or bool(existing.pull_steps)
    )


async def _create(client: PrefectClient, deployment: Deployment, flow_name: str, schema: dict[str, object], work_pool: str) -> None:
    flow_id = await patiently(lambda: client.create_flow_from_name(flow_name))
    await patiently(
        lambda: client.create_deployment(
            flow_id=flow_id,
            name=deployment.name,
            version=version("fleetflow"),
            description=deployment.description,
            tags=list(deployment.tags),
            entrypoint=deployment.entrypoint,
            parameter_openapi_schema=schema,
            enforce_parameter_schema=True,
            pull_steps=[],
            work_pool_name=work_pool,
            concurrency_limit=deployment.limit,
            concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),  # else runs would be lost
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=deployment.cron))] if deployment.cron else None,
        )
    )


async def _renew(
    client: PrefectClient, existing: DeploymentResponse, deployment: Deployment, schema: dict[str, object], work_pool: str
) -> None:
    update = DeploymentUpdate.model_validate(
        {
            "version": version("fleetflow"),
            "description": deployment.description,
            "tags": sorted({*existing.tags, *deployment.tags}),
            "entrypoint": deployment.entrypoint,
            "parameter_openapi_schema": schema,
            "pull_steps": [],
            "work_pool_name": work_pool,
        }
    )
    await patiently(lambda: client.update_deployment(existing.id, update))
