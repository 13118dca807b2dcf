"""Asks for the end of a task: in the store, which its worker obeys, and in Prefect, where it may still wait for a worker."""

import socket
import uuid
from typing import TYPE_CHECKING

from fleetflow.who import user
from models.errors import UnavailableError

if TYPE_CHECKING:  # importing the store costs a third of a second
    from fleetflow.client import Prefect
    from models.store import Store


def request_cancel(store: "Store", prefect: "Prefect", flow_run_id: uuid.UUID) -> None:
    """Ask for the end of a flow run's task. One of the two must hear of it; raises `UnavailableError`."""
    noted = store.request_cancel(flow_run_id, f"{user()}@{socket.gethostname()}")
    try:
        prefect.cancel(flow_run_id)
    except UnavailableError:
        if not noted:
            raise
