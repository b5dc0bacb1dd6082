"""Which runs ask for a move: what an index or a few rows answer, asked after every message and every second."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, func, or_, select
from sqlalchemy.orm import Session

from coordinator.rounds.facts import LIVE_RUN, UNANNOUNCED
from coordinator.tables import (
    LedgerRow,
    MemberRow,
    NodeRow,
    ParticipationRow,
    RefusalRow,
    RoundRow,
    RunRow,
    UtcDateTime,
)
from hsl_model.protocol.states import MembershipStatus, NodeStatus, ParticipationStatus, RoundStatus, RunStatus

P = ParticipationStatus


def due_runs(session: Session, now: datetime, run_id: str | None = None) -> Sequence[str]:
    """Runs (or this run, if it is one) whose facts and `now` ask for a move; what an index or a few rows answer.

    None while the ledger is held: it was restored, and does not know what has been decided since.
    """
    if run_id is None:
        return session.scalars(_DUE, {"now": now}).all()
    return session.scalars(_DUE_ONE, {"now": now, "run_id": run_id}).all()


_NOW = bindparam("now", type_=UtcDateTime())
_HERE = and_(ParticipationRow.run_id == RoundRow.run_id, ParticipationRow.round_number == RoundRow.round_number)


def _departed() -> ColumnElement[bool]:
    """A member of the newest round, while it goes on, was revoked or has withdrawn."""
    gone = (
        exists()
        .where(_HERE, ParticipationRow.status != P.EXCLUDED)
        .where(MemberRow.run_id == ParticipationRow.run_id, MemberRow.node_id == ParticipationRow.node_id)
        .where(NodeRow.node_id == ParticipationRow.node_id)
        .where(or_(NodeRow.status == NodeStatus.REVOKED, MemberRow.status == MembershipStatus.WITHDRAWN))
    )
    return and_(RoundRow.status.in_((RoundStatus.OPEN, RoundStatus.FUSING)), gone)


def _collected() -> ColumnElement[bool]:
    """All have announced (round 0: one has), or the deadline has passed."""
    waited_for = exists().where(_HERE, ParticipationRow.status.in_([*UNANNOUNCED, P.FAILED]))
    announced = exists().where(_HERE, ParticipationRow.status == P.ANNOUNCED)
    first = and_(RoundRow.round_number == 0, announced)
    return and_(RoundRow.status == RoundStatus.OPEN, or_(RoundRow.deadline_at <= _NOW, ~waited_for, first))


def _reported() -> ColumnElement[bool]:
    """Nobody of the plan owes a report, or votes against an update have to be counted; also while paused."""
    owing = exists().where(_HERE, ParticipationRow.status == P.FUSING, ParticipationRow.reported_at.is_(None))
    refused = exists().where(
        RefusalRow.run_id == RoundRow.run_id,
        RefusalRow.round_number == RoundRow.round_number,
        RefusalRow.plan_version == RoundRow.plan_version,
    )
    return and_(RoundRow.status == RoundStatus.FUSING, or_(~owing, refused))


def _fused_for_all() -> ColumnElement[bool]:
    """Fusers are at work, or an audit is: what they say is compared before others report."""
    return and_(RoundRow.status == RoundStatus.FUSING, func.json_array_length(RoundRow.plan["fusers"]) > 0)


def _next() -> ColumnElement[bool]:
    expired = and_(RoundRow.status == RoundStatus.FUSING, RoundRow.report_deadline_at <= _NOW)
    between = or_(RoundRow.status.is_(None), RoundRow.status == RoundStatus.COMPLETED)
    return and_(RunRow.status == RunStatus.RUNNING, or_(between, _collected(), expired))


def _due() -> Select[str]:
    newest = (
        select(func.max(RoundRow.round_number))
        .where(RoundRow.run_id == RunRow.run_id)
        .correlate(RunRow)
        .scalar_subquery()
    )
    return (
        select(RunRow.run_id)
        .outerjoin(RoundRow, and_(RoundRow.run_id == RunRow.run_id, RoundRow.round_number == newest))
        .where(RunRow.status.in_(LIVE_RUN), ~exists().where(LedgerRow.held_since.is_not(None)))
        .where(or_(_next(), _departed(), _reported(), _fused_for_all()))
        .order_by(RunRow.run_id)
    )


_DUE = _due()
_DUE_ONE = _DUE.where(RunRow.run_id == bindparam("run_id"))
