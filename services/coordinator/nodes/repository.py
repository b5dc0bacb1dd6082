"""Reading and finding nodes. Changes of status go through `kit.guard`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Select, Update, or_, select, update
from sqlalchemy.orm import Session

from coordinator.settings import CoordinatorSettings
from coordinator.tables import NodeRow
from hsl_model.protocol.messages import Progress
from hsl_model.protocol.states import NodeHealth, NodePhase, NodeStatus


def find(session: Session, node_id: str, *, lock: bool = False) -> NodeRow | None:
    return session.get(NodeRow, node_id, with_for_update=True if lock else None)


def find_by_code(session: Session, code_hash: str, *, lock: bool = False) -> NodeRow | None:
    query = select(NodeRow).where(NodeRow.code_hash == code_hash)
    return session.scalar(query.with_for_update() if lock else query)


def listing(
    status: NodeStatus | None, health: NodeHealth | None, now: datetime, settings: CoordinatorSettings
) -> Select[NodeRow]:
    query = select(NodeRow).order_by(NodeRow.node_id)
    if status is not None:
        query = query.where(NodeRow.status == status.value)
    if health is not None:
        query = query.where(_has_health(health, now, settings))
    return query


def _has_health(health: NodeHealth, now: datetime, settings: CoordinatorSettings) -> ColumnElement[bool]:
    """`nodes.service.health_of` as SQL, so that a page of late nodes does not read all nodes."""
    seen = NodeRow.last_seen_at
    late, lost = (now - timedelta(seconds=s) for s in (settings.late_after_s, settings.lost_after_s))
    match health:
        case NodeHealth.NEVER_SEEN:
            return seen.is_(None)
        case NodeHealth.ONLINE:
            return seen >= late
        case NodeHealth.LATE:
            return (seen < late) & (seen >= lost)
        case NodeHealth.LOST:
            return seen < lost


@dataclass(frozen=True)
class Doing:
    """What a node's agent does in a round, by its last heartbeat."""

    phase: NodePhase
    progress: Progress | None


def doing(session: Session, run_id: str, round_number: int) -> dict[str, Doing]:
    """Of every node whose agent works on that round."""
    found = session.execute(
        select(NodeRow.node_id, NodeRow.phase, NodeRow.progress).where(
            NodeRow.run_id == run_id, NodeRow.round_number == round_number, NodeRow.phase.is_not(None)
        )
    )
    return {
        node_id: Doing(NodePhase(phase), None if progress is None else Progress.model_validate(progress))
        for node_id, phase, progress in found
    }


def awaiting_account(session: Session) -> Sequence[NodeRow]:
    """Enrolled nodes whose folder and key the hub has not confirmed."""
    query = select(NodeRow).where(NodeRow.status == NodeStatus.ENROLLED.value, NodeRow.hub_ready_at.is_(None))
    return session.scalars(query.order_by(NodeRow.node_id)).all()


def awaiting_cut(session: Session) -> Sequence[NodeRow]:
    """Revoked or suspended nodes that the hub has not confirmed as cut."""
    shut_out = or_(NodeRow.status == NodeStatus.REVOKED.value, NodeRow.suspended_at.is_not(None))
    query = select(NodeRow).where(shut_out, NodeRow.hub_cut_at.is_(None))
    return session.scalars(query.order_by(NodeRow.node_id)).all()


def ever_enrolled(session: Session) -> list[str]:
    """Nodes with a folder on the hub: revoked ones are read only once the hub has confirmed that they are cut."""
    query = select(NodeRow.node_id).where(
        or_(NodeRow.hub_cut_at.is_not(None), NodeRow.status == NodeStatus.ENROLLED.value)
    )
    return list(session.scalars(query.order_by(NodeRow.node_id)))


def every(session: Session) -> Sequence[NodeRow]:
    return session.scalars(select(NodeRow).order_by(NodeRow.node_id)).all()


def note_made(session: Session, node_id: str, now: datetime) -> bool:
    """The hub has folder and user. True when that was not known before."""
    unmade = (NodeRow.node_id == node_id, NodeRow.hub_made_at.is_(None))
    return _changed(session, update(NodeRow).where(*unmade).values(hub_made_at=now))


def note_key(session: Session, node_id: str, ssh_public_key: str) -> bool:
    """The hub lets this key in. True when it was another before."""
    other = or_(NodeRow.hub_key.is_(None), NodeRow.hub_key != ssh_public_key)
    return _changed(session, update(NodeRow).where(NodeRow.node_id == node_id, other).values(hub_key=ssh_public_key))


def note_account(session: Session, node_id: str, ssh_public_key: str, now: datetime) -> bool:
    """The hub has all that it should have. False when the node has another key by now, or was revoked."""
    return _changed(
        session,
        update(NodeRow)
        .where(NodeRow.node_id == node_id, NodeRow.status == NodeStatus.ENROLLED.value)
        .where(NodeRow.ssh_public_key == ssh_public_key)
        .values(hub_ready_at=now),
    )


def note_cut(session: Session, node_id: str, now: datetime) -> bool:
    """True when that was not known before."""
    uncut = (NodeRow.node_id == node_id, NodeRow.hub_cut_at.is_(None))
    return _changed(session, update(NodeRow).where(*uncut).values(hub_cut_at=now, hub_key=None))


def _changed(session: Session, statement: Update) -> bool:
    return bool(cast("CursorResult[Any]", session.execute(statement)).rowcount)


def doubt_hub(session: Session, node_id: str) -> None:
    """What the hub has of this node may not be what it should have: the next beat sets it right."""
    session.execute(update(NodeRow).where(NodeRow.node_id == node_id).values(hub_ready_at=None, hub_cut_at=None))
