"""Runs: what the alliance's admin does with them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from coordinator.kit.auth import AdminDep, AdminTokenError, require_admin
from coordinator.kit.paging import PagingDep, page_of
from coordinator.kit.problems import NotFoundError, problems
from coordinator.kit.session import KernelDep, SessionDep, SnapshotDep
from coordinator.ledger.errors import LedgerHeldError
from coordinator.rounds.errors import InvitedNodeError, NotEnoughMembersError, RunStateError
from coordinator.rounds.explain import Explainer
from coordinator.rounds.moves import Act
from coordinator.rounds.schemas import RunIdPath
from coordinator.runs import repository, service
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.states import RunStatus
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import Page, RunView

router = APIRouter(
    prefix=f"{API}/runs", tags=["runs"], dependencies=[Depends(require_admin)], responses=problems(AdminTokenError)
)
_MOVED = problems(NotFoundError, RunStateError)
_RESUMED = problems(NotFoundError, RunStateError, LedgerHeldError)


async def _explainer(kernel: KernelDep) -> Explainer:
    return Explainer(kernel.settings, kernel.clock.now())


ExplainerDep = Annotated[Explainer, Depends(_explainer)]


@router.post("", status_code=201, summary="Create a run", responses=problems(InvitedNodeError, ConfigError))
def create_run(kernel: KernelDep, session: SessionDep, actor: AdminDep, config: RunConfig) -> RunView:
    """A draft that invites its nodes; each becomes a member when its site's admin accepts."""
    now = kernel.clock.now()
    return service.show(session, Explainer(kernel.settings, now), service.create(Act(session, now, actor), config))


@router.get("", summary="List runs, newest first")
def list_runs(
    session: SnapshotDep,
    explainer: ExplainerDep,
    paging: PagingDep,
    status: Annotated[RunStatus | None, Query()] = None,
    node_id: Annotated[str | None, Query(description="runs that name this node")] = None,
    name: Annotated[str | None, Query(description="runs with exactly this name")] = None,
) -> Page[RunView]:
    query = repository.listing(status, node_id, name)
    return page_of(session, query, paging, lambda run: service.show(session, explainer, run.run_id))


@router.get("/{run_id}", summary="Show a run", responses=problems(NotFoundError))
def show_run(session: SnapshotDep, explainer: ExplainerDep, run_id: RunIdPath) -> RunView:
    return service.show(session, explainer, run_id)


@router.post(
    "/{run_id}/start",
    summary="Start a run",
    responses=problems(NotFoundError, RunStateError, NotEnoughMembersError, LedgerHeldError),
)
def start_run(kernel: KernelDep, actor: AdminDep, run_id: RunIdPath) -> RunView:
    """Needs a quorum of members. Round 0, the initial weights, opens at once."""
    return service.moved(kernel, actor, run_id, service.start)


@router.post("/{run_id}/pause", summary="Pause a run", responses=_MOVED)
def pause_run(kernel: KernelDep, actor: AdminDep, run_id: RunIdPath) -> RunView:
    """Training stops at the next step with a snapshot; transfers and a started fusion finish; deadlines stand still."""
    return service.moved(kernel, actor, run_id, service.pause)


@router.post("/{run_id}/resume", summary="Let a paused run go on", responses=_RESUMED)
def resume_run(kernel: KernelDep, actor: AdminDep, run_id: RunIdPath) -> RunView:
    return service.moved(kernel, actor, run_id, service.resume)


@router.post("/{run_id}/stop", summary="End a run for good", responses=_MOVED)
def stop_run(kernel: KernelDep, actor: AdminDep, run_id: RunIdPath) -> RunView:
    """The open round is cancelled; every site keeps its last fused model."""
    return service.moved(kernel, actor, run_id, service.stop)
