"""The ledger, to read."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from coordinator.events import repository, service
from coordinator.kit.auth import AdminTokenError, require_admin
from coordinator.kit.paging import PagingDep, page_of
from coordinator.kit.problems import problems
from coordinator.kit.session import SnapshotDep
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import EventView, Page

router = APIRouter(
    prefix=f"{API}/events", tags=["events"], dependencies=[Depends(require_admin)], responses=problems(AdminTokenError)
)


@router.get("", summary="List events, oldest first")
def list_events(
    session: SnapshotDep,
    paging: PagingDep,
    run_id: Annotated[str | None, Query(max_length=48)] = None,
    node_id: Annotated[str | None, Query(max_length=32)] = None,
    kind: Annotated[str | None, Query(max_length=64, description="e.g. node.enrolled")] = None,
    after: Annotated[int, Query(ge=0, le=2**62, description="only events with a larger id: to go on reading")] = 0,
) -> Page[EventView]:
    return page_of(session, repository.listing(run_id, node_id, kind, after), paging, service.view_of)
