"""A node's life: created with a one-time code -> enrolled -> revoked, which is final."""

import secrets
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.kit.auth import digest_of
from coordinator.kit.guard import guarded_update
from coordinator.kit.problems import NotFoundError
from coordinator.ledger.repository import refuse_while_held
from coordinator.nodes import provisioning, repository
from coordinator.nodes.errors import HubUnreachableError, NodeExistsError, RevokedForeverError
from coordinator.nodes.schemas import NodeCreate
from coordinator.rounds.tick import tick
from coordinator.settings import CoordinatorSettings
from coordinator.tables import NodeRow
from hsl_model.protocol.messages import Progress
from hsl_model.protocol.states import NodeHealth, NodePhase, NodeStatus
from hsl_model.protocol.views import NodeCreated, NodeView

_CODE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # read aloud over the telephone: nothing that looks like another
_CODE_GROUPS, _GROUP_LENGTH = 5, 4  # 20 of 30 signs: 98 bits, too many to guess however fast one may ask
_log = structlog.get_logger(__name__)


def normalised_code(code: str) -> str:
    """As stored: people type codes with or without dashes, in either case."""
    return "".join(code.split()).replace("-", "").upper()


def create(kernel: Kernel, session: Session, request: NodeCreate) -> NodeCreated:
    refuse_while_held(session)
    now = kernel.clock.now()
    node = NodeRow(
        node_id=request.node_id,
        display_name=request.display_name or request.node_id,
        status=NodeStatus.CREATED.value,
        created_at=now,
    )
    code = _give_code(node, now, kernel.settings)
    if repository.find(session, request.node_id) is not None:
        raise NodeExistsError(node_id=request.node_id)
    session.add(node)
    try:
        session.flush()
    except IntegrityError as error:  # somebody else added it between the look and here
        raise NodeExistsError(node_id=request.node_id) from error
    events.append(session, now, "node.created", events.ADMIN, node_id=node.node_id)
    return NodeCreated(node_id=node.node_id, code=code, expires_in_s=kernel.settings.code_lifetime_s)


def renew_code(kernel: Kernel, session: Session, node_id: str) -> NodeCreated:
    """For a code that expired, and for a site that lost its keys. A token that works goes on working until then."""
    refuse_while_held(session)
    now = kernel.clock.now()
    node = _existing(session, node_id, lock=True)
    if node.status == NodeStatus.REVOKED:
        raise RevokedForeverError(node_id=node_id)
    code = _give_code(node, now, kernel.settings)
    events.append(session, now, "node.code_renewed", events.ADMIN, node_id=node_id)
    return NodeCreated(node_id=node_id, code=code, expires_in_s=kernel.settings.code_lifetime_s)


def _give_code(node: NodeRow, now: datetime, settings: CoordinatorSettings) -> str:
    groups = ("".join(secrets.choice(_CODE_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_CODE_GROUPS))
    code = "-".join(groups)
    node.code_hash = digest_of(normalised_code(code))
    node.code_expires_at = now + timedelta(seconds=settings.code_lifetime_s)
    node.code_taken_by = None
    return code


def show(kernel: Kernel, session: Session, node_id: str) -> NodeView:
    return view_of(_existing(session, node_id), kernel.clock.now(), kernel.settings)


def revoke(kernel: Kernel, node_id: str) -> NodeView:
    """The token is dead with the commit; rounds go on without the node in the same transaction; the hub follows."""
    with kernel.transaction() as session:
        now = kernel.clock.now()
        moved = guarded_update(
            session,
            NodeRow,
            node_id,
            (NodeStatus.CREATED, NodeStatus.ENROLLED),
            NodeStatus.REVOKED,
            revoked_at=now,
            hub_cut_at=None,
            code_hash=None,
            code_expires_at=None,
            code_taken_by=None,
        )
        node = _existing(session, node_id)
        if moved:
            events.append(session, now, "node.revoked", events.ADMIN, node_id=node_id)
            tick(session, now)
        view = view_of(node, now, kernel.settings)
    try:
        provisioning.cut_account(kernel, node_id)
    except HubUnreachableError:
        _log.warning("hub_cut_postponed", node_id=node_id)
    return view


def release(kernel: Kernel, session: Session, node_id: str) -> NodeView:
    """Forget which start of the agent spoke last: the next one to speak is it."""
    now = kernel.clock.now()
    node = _existing(session, node_id, lock=True)
    node.duplicate_at = node.boot_number = node.boot_id = node.boot_at = None
    events.append(session, now, "node.released", events.ADMIN, node_id=node_id)
    return view_of(node, now, kernel.settings)


def _existing(session: Session, node_id: str, *, lock: bool = False) -> NodeRow:
    node = repository.find(session, node_id, lock=lock)
    if node is None:
        raise NotFoundError(what="node", name=node_id)
    return node


def health_of(last_seen_at: datetime | None, now: datetime, settings: CoordinatorSettings) -> NodeHealth:
    """Computed whenever somebody asks; never stored."""
    if last_seen_at is None:
        return NodeHealth.NEVER_SEEN
    silent_s = (now - last_seen_at).total_seconds()
    if silent_s > settings.lost_after_s:
        return NodeHealth.LOST
    return NodeHealth.LATE if silent_s > settings.late_after_s else NodeHealth.ONLINE


def view_of(node: NodeRow, now: datetime, settings: CoordinatorSettings) -> NodeView:
    return NodeView(
        node_id=node.node_id,
        display_name=node.display_name,
        status=NodeStatus(node.status),
        health=health_of(node.last_seen_at, now, settings),
        phase=NodePhase(node.phase) if node.phase is not None else None,
        run_id=node.run_id,
        round_number=node.round_number,
        progress=Progress.model_validate(node.progress) if node.progress is not None else None,
        waiting=node.waiting,
        failure=node.failure,
        paused_by_site=node.paused_by_site,
        duplicate_instance=node.duplicate_at is not None,
        boot_number=node.boot_number,
        last_seen_s=(now - node.last_seen_at).total_seconds() if node.last_seen_at is not None else None,
        signing_public_key=node.signing_public_key,
        created_at=node.created_at,
        enrolled_at=node.enrolled_at,
        revoked_at=node.revoked_at,
    )
