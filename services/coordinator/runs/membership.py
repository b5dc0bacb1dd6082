"""Membership: a site's admin accepts a run, and may withdraw at any time. INVITED -> ACCEPTED -> WITHDRAWN."""

from coordinator.kit.problems import NotFoundError
from coordinator.rounds.errors import MembershipOverError, NotAMemberError, SatDigestError
from coordinator.rounds.moves import Act, move_membership
from coordinator.rounds.repository import lock_run
from coordinator.rounds.tick import advance
from coordinator.runs import repository
from coordinator.tables import MemberRow, RunRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import AcceptRequest
from hsl_model.protocol.states import MembershipStatus, RunStatus

ENDED = (RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED)


def accept(act: Act, node_id: str, run_id: str, request: AcceptRequest) -> None:
    """The node is a member of the next round that opens. The first answer stands, also its counts."""
    run, member = _locked(act, node_id, run_id)
    if member.status == MembershipStatus.ACCEPTED:
        return
    if member.status == MembershipStatus.WITHDRAWN:
        raise MembershipOverError(node_id=node_id, run_id=run_id, reason="the site has withdrawn from it")
    if run.status in ENDED:
        raise MembershipOverError(node_id=node_id, run_id=run_id, reason=f"it is {run.status}")
    expected = RunConfig.model_validate(run.config).sat_digest
    if expected is not None and request.sat_digest != expected:
        raise SatDigestError(run_id=run_id, expected=expected, found=request.sat_digest or "none")
    move_membership(act, member, MembershipStatus.ACCEPTED, counts=request.counts.model_dump(mode="json"))


def withdraw(act: Act, node_id: str, run_id: str) -> None:
    """From any phase: the round goes on without the node, in the same transaction."""
    _, member = _locked(act, node_id, run_id)
    if member.status == MembershipStatus.WITHDRAWN:
        return
    move_membership(act, member, MembershipStatus.WITHDRAWN)
    advance(act, run_id)


def _locked(act: Act, node_id: str, run_id: str) -> tuple[RunRow, MemberRow]:
    run = lock_run(act.session, run_id)
    if run is None:
        raise NotFoundError(what="run", name=run_id)
    member = repository.find_member(act.session, run_id, node_id)
    if member is None:
        raise NotAMemberError(node_id=node_id, run_id=run_id)
    return run, member
