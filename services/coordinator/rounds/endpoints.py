"""Rounds: read only. They move by what nodes say and by time; an admin moves the run."""

from fastapi import APIRouter, Depends

from coordinator.kit.auth import AdminTokenError, require_admin
from coordinator.kit.paging import PagingDep, page_of
from coordinator.kit.problems import NotFoundError, problems
from coordinator.kit.session import KernelDep, SnapshotDep
from coordinator.rounds import service
from coordinator.rounds.explain import Explainer
from coordinator.rounds.schemas import RoundNumberPath, RunIdPath
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import Page, RoundView

router = APIRouter(
    prefix=f"{API}/runs/{{run_id}}/rounds",
    tags=["rounds"],
    dependencies=[Depends(require_admin)],
    responses=problems(AdminTokenError, NotFoundError),
)


@router.get("", summary="List a run's rounds, from round 0 on")
def list_rounds(kernel: KernelDep, session: SnapshotDep, paging: PagingDep, run_id: RunIdPath) -> Page[RoundView]:
    now = kernel.clock.now()
    views = service.RoundViews(session, run_id, Explainer(kernel.settings, now), now)
    return page_of(session, service.listing(run_id), paging, views.view)


@router.get("/{round_number}", summary="Show a round with its participation record")
def show_round(kernel: KernelDep, session: SnapshotDep, run_id: RunIdPath, round_number: RoundNumberPath) -> RoundView:
    now = kernel.clock.now()
    return service.RoundViews(session, run_id, Explainer(kernel.settings, now), now).show(round_number)
