"""The ledger itself: whether it is behind what its nodes have seen, and putting that right."""

from fastapi import APIRouter, Depends

from coordinator.kit.auth import AdminTokenError, require_admin
from coordinator.kit.problems import problems
from coordinator.kit.session import KernelDep, SnapshotDep
from coordinator.ledger import service
from coordinator.ledger.errors import LedgerNotHeldError
from coordinator.ledger.schemas import RecoverRequest
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import LedgerView, RecoveredView

router = APIRouter(
    prefix=f"{API}/ledger", tags=["ledger"], dependencies=[Depends(require_admin)], responses=problems(AdminTokenError)
)


@router.get("", summary="Show the ledger, and what its nodes have seen beyond it")
def show_ledger(session: SnapshotDep) -> LedgerView:
    return service.show(session)


@router.post("/recover", summary="Complete a restored ledger", responses=problems(LedgerNotHeldError))
def recover(kernel: KernelDep, request: RecoverRequest) -> RecoveredView:
    """Revokes again whom others know as revoked, writes the rounds that the nodes prove, raises the generation."""
    return service.recover(kernel, request)
