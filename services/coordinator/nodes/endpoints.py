"""Nodes: what the admin does with them, and how a site enrols."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from coordinator.kit.auth import AdminTokenError, ProtocolVersionError, check_protocol, require_admin
from coordinator.kit.paging import PagingDep, page_of
from coordinator.kit.problems import NotFoundError, problems
from coordinator.kit.session import KernelDep, SessionDep, SnapshotDep
from coordinator.ledger.errors import LedgerHeldError
from coordinator.nodes import enrolment, provisioning, repository, service
from coordinator.nodes.errors import (
    EnrolmentCodeError,
    HubUnknownError,
    HubUnreachableError,
    NodeExistsError,
    PublicKeyError,
    RevokedForeverError,
)
from coordinator.nodes.schemas import NodeCreate
from hsl_model.protocol.messages import EnrolReply, EnrolRequest, HubPlace
from hsl_model.protocol.states import NodeHealth, NodeStatus
from hsl_model.protocol.transport import API, ENROL, HUB_PLACE
from hsl_model.protocol.views import NodeCreated, NodeView, Page

router = APIRouter()
_admin = APIRouter(
    prefix=f"{API}/nodes", tags=["nodes"], dependencies=[Depends(require_admin)], responses=problems(AdminTokenError)
)


@_admin.post("", status_code=201, summary="Add a node", responses=problems(NodeExistsError, LedgerHeldError))
def create_node(kernel: KernelDep, session: SessionDep, request: NodeCreate) -> NodeCreated:
    """Answers the one-time enrolment code: only this once, the coordinator keeps its hash."""
    return service.create(kernel, session, request)


@_admin.get("", summary="List nodes")
def list_nodes(
    kernel: KernelDep,
    session: SnapshotDep,
    paging: PagingDep,
    status: Annotated[NodeStatus | None, Query()] = None,
    health: Annotated[NodeHealth | None, Query()] = None,
) -> Page[NodeView]:
    now = kernel.clock.now()
    query = repository.listing(status, health, now, kernel.settings)
    return page_of(session, query, paging, lambda node: service.view_of(node, now, kernel.settings))


@_admin.get("/{node_id}", summary="Show a node", responses=problems(NotFoundError))
def show_node(kernel: KernelDep, session: SnapshotDep, node_id: str) -> NodeView:
    return service.show(kernel, session, node_id)


@_admin.post("/{node_id}/revoke", summary="Revoke a node, for ever", responses=problems(NotFoundError))
def revoke_node(kernel: KernelDep, node_id: str) -> NodeView:
    """Its token dies at once, its hub access as soon as the hub answers, and its updates leave the plan."""
    return service.revoke(kernel, node_id)


@_admin.post("/{node_id}/release", summary="Let another agent take the identity", responses=problems(NotFoundError))
def release_node(kernel: KernelDep, session: SessionDep, node_id: str) -> NodeView:
    """After a second live agent was refused. Stop the wrong one first: the next to speak is taken for the right one."""
    return service.release(kernel, session, node_id)


@_admin.post(
    "/{node_id}/code",
    summary="Give a new enrolment code",
    responses=problems(NotFoundError, RevokedForeverError, LedgerHeldError),
)
def renew_code(kernel: KernelDep, session: SessionDep, node_id: str) -> NodeCreated:
    return service.renew_code(kernel, session, node_id)


@router.post(
    ENROL,
    tags=["nodes"],
    summary="Enrol a site",
    dependencies=[Depends(check_protocol)],
    responses=problems(EnrolmentCodeError, PublicKeyError, HubUnreachableError, ProtocolVersionError, LedgerHeldError),
)
def enrol(kernel: KernelDep, request: EnrolRequest) -> EnrolReply:
    """The code admits these keys. The same again is answered with a fresh token until the token is first used."""
    return enrolment.enrol(kernel, request)


@router.get(
    HUB_PLACE,
    tags=["nodes"],
    summary="Where the hub listens",
    dependencies=[Depends(check_protocol)],
    responses=problems(HubUnknownError, ProtocolVersionError),
)
def hub_place(kernel: KernelDep) -> HubPlace:
    """For `hsl node check` before a site has joined: what its firewall must let through. Needs no token."""
    return provisioning.hub_place(kernel.hub)


router.include_router(_admin)
