"""Reading and finding runs. Changes of status go through `rounds.moves`."""

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from coordinator.tables import MemberRow, NodeRow, RunRow
from hsl_model.protocol.states import MembershipStatus, NodeStatus, RunStatus


def listing(status: RunStatus | None, node_id: str | None, name: str | None) -> Select[RunRow]:
    """Newest first."""
    query = select(RunRow).order_by(RunRow.created_at.desc(), RunRow.run_id)
    if status is not None:
        query = query.where(RunRow.status == status.value)
    if name is not None:
        query = query.where(RunRow.name == name)
    if node_id is not None:
        named = select(MemberRow.run_id).where(MemberRow.node_id == node_id)
        query = query.where(RunRow.run_id.in_(named))
    return query


def invitable(session: Session, node_ids: Sequence[str]) -> set[str]:
    query = select(NodeRow.node_id).where(NodeRow.node_id.in_(node_ids), NodeRow.status != NodeStatus.REVOKED)
    return set(session.scalars(query))


def find_member(session: Session, run_id: str, node_id: str) -> MemberRow | None:
    return session.get(MemberRow, (run_id, node_id), populate_existing=True)


def joined(session: Session, node_id: str) -> Sequence[str]:
    """Runs this node is a member of."""
    query = select(MemberRow.run_id).where(MemberRow.node_id == node_id, MemberRow.status == MembershipStatus.ACCEPTED)
    return session.scalars(query.order_by(MemberRow.run_id)).all()
