"""Numbers about everything, and the audit trail."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime

from hub.api.roles import BASE, Known
from hub.api.shapes import AuditEntry, AuditPage, Limit, Number, Statistics
from models.audit import Audit
from models.listing import Listing
from models.rows import stamp

router = APIRouter(prefix=BASE)

_USUALLY = timedelta(days=1)


@router.get("/statistics", tags=["statistics"])
def show_statistics(
    request: Request,
    caller: Known,
    since: Annotated[AwareDatetime | None, Query(description="Count tasks created at this time or later; a day ago by default.")] = None,
) -> Statistics:
    """Count tasks, executions and agents by state."""
    del caller
    listing: Listing = request.app.state.listing
    begin = (since or datetime.now(UTC) - _USUALLY).timestamp()
    tasks, executions = listing.task_counts(begin)
    return Statistics(since=stamp(begin), tasks=dict(tasks), executions=dict(executions), agents=dict(listing.agent_counts()))


@router.get("/audit", tags=["audit"])
def list_audit(request: Request, caller: Known, limit: Limit = 100, before: Number | None = None) -> AuditPage:
    """List what was changed and refused, the newest first."""
    del caller
    audit: Audit = request.app.state.audit
    found = audit.entries(limit, before)
    items = [AuditEntry(**{**asdict(entry), "at": stamp(entry.at)}) for entry in found]
    return AuditPage(items=items, next=found[-1].id if len(found) == limit else None)
