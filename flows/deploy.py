"""The work pool and the deployments of a stack; made when they are missing, brought up to date when this program is newer."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from flows.patience import patiently
from models.errors import UnavailableError

_DATABASE = "fleetflow database "


@dataclass(frozen=True)
class Deployment:
    """A flow that people can start; prefect.yaml says the same for `prefect deploy`."""

    name: str
    entrypoint: str  # dotted: Prefect treats only that as a module that is installed where the flow runs
    description: str
    tags: tuple[str, ...] = ()


DEPLOYMENTS = (
    Deployment(
        name="fleet",
        entrypoint="flows.run_command.run_command",
        description="Run a shell command on the hosts of a target.",
        tags=("fleetflow",),
    ),
)
