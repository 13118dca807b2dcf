"""What the worker's socket tells about a task that has ended: the task, and its results where they are small."""

from uuid import UUID

from models.rows import Row
from models.store import Store

_HOSTS = 100
_BYTES = 64 * 1024  # of output; a larger one is read from the store by whoever wants it


def describe(store: Store, flow_run_id: UUID) -> dict[str, object]:
    """`{"task": ..., "rows": [...]}`; without rows where they are many or large, and empty where the run opened no task."""
    line = store.line_of_flow_run(flow_run_id)
    if line is None:
        return {}
    task: dict[str, object] = {"task": line._asdict() | {"flow_run_id": str(flow_run_id)}}
    if line.hosts > _HOSTS:
        return task
    rows: list[Row] = []
    size = 0
    for execution in store.executions(line.id):
        rows.append(store.row(execution))
        size += len(rows[-1]["stdout"]) + len(rows[-1]["stderr"])
        if size > _BYTES:
            return task
    return task | {"rows": rows}
