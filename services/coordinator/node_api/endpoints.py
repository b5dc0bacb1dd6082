"""What agents say and ask. Every message may come twice, late or in another order, and changes nothing by it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from coordinator.kit.auth import (
    Bearer,
    Boot,
    DuplicateInstanceError,
    NodeDep,
    NodeRevokedError,
    NodeTokenError,
    ProtocolVersionError,
    _boot,
    _node_scheme,
    check_protocol,
)
from coordinator.kit.auth import _node as _node_of
from coordinator.kit.problems import NotFoundError, problem_response, problems
from coordinator.kit.session import KernelDep, SessionDep
from coordinator.node_api import service
from coordinator.node_api.attendance import recognised
from coordinator.node_api.polling import LongPoll
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
from hsl_model.protocol.messages import (
    AcceptRequest,
    AnnounceReply,
    AnnounceRequest,
    DesiredRequest,
    DesiredState,
    FusionReport,
    Heartbeat,
    PublishedReport,
    RefusalReport,
)
from hsl_model.protocol.transport import API

router = APIRouter(
    prefix=f"{API}/node",
    tags=["node"],
    responses=problems(NodeTokenError, NodeRevokedError, ProtocolVersionError, DuplicateInstanceError),
)
_MEMBERSHIP = problems(NotFoundError, NotAMemberError, MembershipOverError, SatDigestError)


def _act(kernel: KernelDep, session: SessionDep, node_id: NodeDep) -> Act:
    return Act(session, kernel.clock.now(), node_id)


ActDep = Annotated[Act, Depends(_act, scope="function")]


async def _long_poll(request: Request, kernel: KernelDep) -> LongPoll:
    """One for each application, made in its event loop."""
    state = request.app.state
    if not hasattr(state, "long_poll"):
        state.long_poll = LongPoll(kernel)
    found: LongPoll = state.long_poll
    return found


LongPollDep = Annotated[LongPoll, Depends(_long_poll)]


async def _poller(
    kernel: KernelDep,
    long_poll: LongPollDep,
    protocol: Annotated[None, Depends(check_protocol)],
    bearer: Annotated[Bearer, Depends(_node_scheme)],
    boot: Annotated[Boot, Depends(_boot)],
) -> str:
    """The node that polls: mostly one that the newest snapshot knows."""
    now = kernel.clock.now()
    held = await long_poll.snapshots.newest()
    node_id = recognised(held.snapshot, bearer.credentials if bearer else "", boot, now)
    if node_id is None:
        return await run_in_threadpool(_node_of, kernel, protocol, bearer, boot)
    await long_poll.attendance.note(node_id, now)
    return node_id


@router.post("/desired", summary="What should be true of this node (long poll)", response_model=DesiredState)
async def desired(
    long_poll: LongPollDep, node_id: Annotated[str, Depends(_poller)], request: DesiredRequest
) -> Response:
    """Answers when the state differs from `known_version`, else after `wait_s`. Lost messages are harmless by it."""
    wish = await long_poll.answer(node_id, request)
    return Response(wish.body(), media_type="application/json")


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


def _node(act: Act) -> NodeRow:
    return act.session.get_one(NodeRow, act.actor)
