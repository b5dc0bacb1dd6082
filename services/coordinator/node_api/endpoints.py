"""What agents say and ask. Every message may come twice, late or in another order, and changes nothing by it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from coordinator.kit.auth import (
    DuplicateInstanceError,
    NodeDep,
    NodeRevokedError,
    NodeSuspendedError,
    NodeTokenError,
    ProtocolVersionError,
)
from coordinator.kit.problems import NotFoundError, problem_response, problems
from coordinator.kit.session import KernelDep, SessionDep
from coordinator.ledger import service as ledger
from coordinator.ledger.errors import RecordRefusedError
from coordinator.node_api import service
from coordinator.node_api.quick import QuickRoute, answered
from coordinator.nodes import provisioning, rotation
from coordinator.nodes.errors import (
    HubUnreachableError,
    PublicKeyError,
    RotationRefusedError,
    RotationTooSoonError,
)
from coordinator.rounds import announce as announcing
from coordinator.rounds import files, fusion, refusals
from coordinator.rounds.errors import (
    AlreadyAnnouncedError,
    AlreadyReportedError,
    FileUnknownError,
    MembershipOverError,
    NotAMemberError,
    PlanSupersededError,
    RefusalInvalidError,
    ReportInvalidError,
    RoundOverError,
    RoundUnknownError,
    SatDigestError,
    UpdateRefusedError,
)
from coordinator.rounds.moves import Act
from coordinator.rounds.schemas import RoundNumberPath, RunIdPath
from coordinator.rounds.tick import advance
from coordinator.runs import membership
from coordinator.tables import NodeRow
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.ledger import RecordReport
from hsl_model.protocol.messages import (
    AcceptRequest,
    AnnounceReply,
    AnnounceRequest,
    DesiredRequest,
    DesiredState,
    FusionReport,
    Heartbeat,
    HubAddress,
    PublishedReport,
    RefusalReport,
    RotateRequest,
)
from hsl_model.protocol.transport import API

router = APIRouter(
    prefix=f"{API}/node",
    tags=["node"],
    responses=problems(
        NodeTokenError, NodeRevokedError, NodeSuspendedError, ProtocolVersionError, DuplicateInstanceError
    ),
)
_MEMBERSHIP = problems(NotFoundError, NotAMemberError, MembershipOverError, SatDigestError)


async def _act(kernel: KernelDep, session: SessionDep, node_id: NodeDep) -> Act:
    return Act(session, kernel.clock.now(), node_id)


ActDep = Annotated[Act, Depends(_act, scope="function")]


_polls = APIRouter(route_class=QuickRoute)


@_polls.post("/desired", summary="What should be true of this node (long poll)", response_model=DesiredState)
async def desired(request: Request, node_id: NodeDep, wish: DesiredRequest) -> Response:
    """Answers when the state differs from `known_version`, else after `wait_s`. Lost messages are harmless by it."""
    return await answered(request, node_id, wish)


router.include_router(_polls)


@router.post(
    "/rotate",
    status_code=204,
    summary="New keys and a new token, made on site",
    responses=problems(RotationRefusedError, RotationTooSoonError, PublicKeyError),
)
def rotate(kernel: KernelDep, node_id: NodeDep, request: RotateRequest) -> None:
    """Signed by the old signing key and the new one. The old token works until the new one is used."""
    rotation.rotate(kernel, node_id, request)


@router.post("/hub", summary="Where the hub is, and its host key", responses=problems(HubUnreachableError))
def hub(kernel: KernelDep, node_id: NodeDep) -> HubAddress:
    """For a site to which the hub showed another host key than the one it pinned."""
    return provisioning.address(kernel, node_id)


@router.post("/heartbeat", status_code=204, summary="What the agent does now")
def heartbeat(act: ActDep, request: Heartbeat) -> None:
    service.heartbeat(act, _node(act), request)


@router.post("/runs/{run_id}/accept", status_code=204, summary="The site's admin accepts a run", responses=_MEMBERSHIP)
def accept(act: ActDep, run_id: RunIdPath, request: AcceptRequest) -> None:
    """A member from the next round that opens."""
    membership.accept(act, act.actor, run_id, request)


@router.post("/runs/{run_id}/withdraw", status_code=204, summary="The site leaves a run", responses=_MEMBERSHIP)
def withdraw(act: ActDep, run_id: RunIdPath) -> None:
    """At any time, for good. The others go on without it, with the next version of the plan."""
    membership.withdraw(act, act.actor, run_id)


@router.post(
    "/runs/{run_id}/rounds/{round_number}/announce",
    summary="Announce this round's update",
    response_model=AnnounceReply,
    responses=problems(
        NotFoundError, RoundUnknownError, RoundOverError, AlreadyAnnouncedError, UpdateRefusedError, ManifestError
    ),
)
def announce(
    act: ActDep, run_id: RunIdPath, round_number: RoundNumberPath, request: AnnounceRequest
) -> AnnounceReply | JSONResponse:
    """The first accepted announce wins. One that came after the freeze is answered `excluded`, `late`."""
    try:
        reply = announcing.announce(act, _node(act), run_id, round_number, request.signed)
    except (UpdateRefusedError, ManifestError) as error:  # refused and recorded: the transaction keeps the event
        act.note("update.not_accepted", run_id, round_number, act.actor, code=error.code, reason=error.sentence())
        return problem_response(error)
    advance(act, run_id)
    return reply


@router.post(
    "/runs/{run_id}/rounds/{round_number}/refusals",
    status_code=204,
    summary="An update of the plan is missing or not acceptable",
    responses=problems(NotFoundError, RoundUnknownError, RoundOverError, PlanSupersededError, RefusalInvalidError),
)
def refuse(act: ActDep, run_id: RunIdPath, round_number: RoundNumberPath, request: RefusalReport) -> None:
    refusals.refuse(act, act.actor, run_id, round_number, request)
    advance(act, run_id)


@router.post(
    "/runs/{run_id}/rounds/{round_number}/fusion",
    status_code=204,
    summary="The plan was fused; later: and the fused model validated",
    responses=problems(
        NotFoundError, RoundUnknownError, RoundOverError, PlanSupersededError, AlreadyReportedError, ReportInvalidError
    ),
)
def report_fusion(act: ActDep, run_id: RunIdPath, round_number: RoundNumberPath, request: FusionReport) -> None:
    fusion.report(act, act.actor, run_id, round_number, request)
    advance(act, run_id)


@router.post(
    "/published",
    status_code=204,
    summary="A file that was asked for lies in this node's folder",
    responses=problems(NotAMemberError, FileUnknownError),
)
def published(act: ActDep, request: PublishedReport) -> None:
    files.published(act, act.actor, request)
    advance(act, request.run_id)


@router.post(
    "/records",
    status_code=204,
    summary="A record of an adopted round, asked for by a restored ledger",
    responses=problems(RecordRefusedError),
)
def record(act: ActDep, request: RecordReport) -> None:
    ledger.keep_record(act, _node(act), request)


def _node(act: Act) -> NodeRow:
    return act.session.get_one(NodeRow, act.actor)
