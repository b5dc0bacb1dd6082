"""The SQL of rounds. Whoever changes a run locks its row first and its newest round next: one order, no deadlock.

Statements that every message executes are built once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, delete, exists, func, or_, select
from sqlalchemy.orm import Session, defer

from coordinator.rounds.facts import LIVE_RUN, UNANNOUNCED, RunFacts
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
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.manifest import SignedManifest
from hsl_model.protocol.states import (
    MembershipStatus,
    NodeStatus,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)

P = ParticipationStatus
_RUN_ID: BindParameter[str] = bindparam("run_id")
_RUN = select(RunRow).where(RunRow.run_id == _RUN_ID)
_ROUND = select(RoundRow).where(RoundRow.run_id == _RUN_ID, RoundRow.round_number == bindparam("round_number"))
_NEWEST = select(RoundRow).where(RoundRow.run_id == _RUN_ID).order_by(RoundRow.round_number.desc()).limit(1)
_PEOPLE = (
    select(MemberRow, NodeRow)
    .join(NodeRow, NodeRow.node_id == MemberRow.node_id)
    .where(MemberRow.run_id == _RUN_ID)
    .order_by(MemberRow.node_id)
)
_PARTICIPATIONS = (
    select(ParticipationRow)
    .where(ParticipationRow.run_id == _RUN_ID, ParticipationRow.round_number == bindparam("round_number"))
    .order_by(ParticipationRow.node_id)
    .options(defer(ParticipationRow.manifest))
)
_MEMBERS_SEEN = (
    select(MemberRow.node_id, MemberRow.status, MemberRow.counts)
    .where(MemberRow.run_id == _RUN_ID)
    .order_by(MemberRow.node_id)
)
_NODES_SEEN = select(
    NodeRow.node_id,
    NodeRow.status,
    NodeRow.last_seen_at,
    NodeRow.phase,
    NodeRow.run_id,
    NodeRow.round_number,
    NodeRow.failure,
    NodeRow.paused_by_site,
    NodeRow.signing_public_key,
)
_NODES_OF_RUN = _NODES_SEEN.join(MemberRow, MemberRow.node_id == NodeRow.node_id).where(MemberRow.run_id == _RUN_ID)
_NODES_RECOGNISED = _NODES_SEEN.add_columns(  # with what tells whether it is they who speak
    NodeRow.token_hash,
    NodeRow.token_used_at,
    NodeRow.boot_number,
    NodeRow.boot_id,
    NodeRow.boot_at,
    NodeRow.duplicate_at,
    NodeRow.suspended_at,
)
_PARTICIPATIONS_SEEN = (
    select(
        ParticipationRow.node_id,
        ParticipationRow.status,
        ParticipationRow.reason,
        ParticipationRow.update_sha256,
        ParticipationRow.update_bytes,
        ParticipationRow.num_cases,
        ParticipationRow.republish_since,
        ParticipationRow.redo_fusion,
        ParticipationRow.reported_at,
    )
    .where(ParticipationRow.run_id == _RUN_ID, ParticipationRow.round_number == bindparam("round_number"))
    .order_by(ParticipationRow.node_id)
)
_LOCKED_RUN, _LOCKED_ROUND, _LOCKED_NEWEST = _RUN.with_for_update(), _ROUND.with_for_update(), _NEWEST.with_for_update()
_HELD_BECAUSE = select(LedgerRow.held_because)
_AS_IT_IS_NOW: dict[str, Any] = {"populate_existing": True}


def lock_run(session: Session, run_id: str) -> RunRow | None:
    """The run's row, ours until the transaction ends, as it is now."""
    return session.scalar(_LOCKED_RUN, {"run_id": run_id}, execution_options=_AS_IT_IS_NOW)


def lock_round(session: Session, run_id: str, round_number: int) -> RoundRow | None:
    """Freeze and announce both come through here, so that neither overtakes the other (rule 4)."""
    if lock_run(session, run_id) is None:
        return None
    key = {"run_id": run_id, "round_number": round_number}
    return session.scalar(_LOCKED_ROUND, key, execution_options=_AS_IT_IS_NOW)


def load(session: Session, run_id: str) -> RunFacts | None:
    """Everything of a run that its rules look at, locked, as it is now, to be changed. Manifests stay in the table."""
    run = lock_run(session, run_id)
    if run is None:
        return None
    newest = newest_round(session, run_id, lock=True)
    people = session.execute(_PEOPLE, {"run_id": run_id}, execution_options=_AS_IT_IS_NOW).all()
    participations: Sequence[ParticipationRow] = ()
    if newest is not None:
        key = {"run_id": run_id, "round_number": newest.round_number}
        participations = session.scalars(_PARTICIPATIONS, key, execution_options=_AS_IT_IS_NOW).all()
    return RunFacts(
        run=run,
        config=RunConfig.model_validate(run.config),
        members={member.node_id: member for member, _ in people},
        nodes={node.node_id: node for _, node in people},
        newest=newest,
        participations={row.node_id: row for row in participations},
    )


def look(
    session: Session, run: RunRow, config: RunConfig | None = None, nodes: Mapping[str, NodeRow] | None = None
) -> RunFacts:
    """The same, only to be looked at: plain rows with what is explained and told, read in a third of the time.

    `config` and `nodes` where the caller has them already.
    """
    key = {"run_id": run.run_id}
    members = cast(Sequence[MemberRow], session.execute(_MEMBERS_SEEN, key).all())
    if nodes is None:
        nodes = {row.node_id: row for row in cast(Sequence[NodeRow], session.execute(_NODES_OF_RUN, key).all())}
    newest = newest_round(session, run.run_id)
    participations: Sequence[ParticipationRow] = ()
    if newest is not None:
        found = session.execute(_PARTICIPATIONS_SEEN, {**key, "round_number": newest.round_number}).all()
        participations = cast(Sequence[ParticipationRow], found)
    return RunFacts(
        run=run,
        config=config or RunConfig.model_validate(run.config),
        members={row.node_id: row for row in members},
        nodes=nodes,
        newest=newest,
        participations={row.node_id: row for row in participations},
        held_because=session.scalar(_HELD_BECAUSE) if run.status == RunStatus.PAUSED else None,
    )


def all_nodes(session: Session) -> dict[str, NodeRow]:
    """Plain rows, only to be looked at."""
    return {row.node_id: row for row in cast(Sequence[NodeRow], session.execute(_NODES_RECOGNISED).all())}


def newest_round(session: Session, run_id: str, *, lock: bool = False) -> RoundRow | None:
    if not lock:
        return session.scalar(_NEWEST, {"run_id": run_id})
    return session.scalar(_LOCKED_NEWEST, {"run_id": run_id}, execution_options=_AS_IT_IS_NOW)


def participations_of(run_id: str, round_number: int) -> Select[ParticipationRow]:
    """With their manifests."""
    return (
        select(ParticipationRow)
        .where(ParticipationRow.run_id == run_id, ParticipationRow.round_number == round_number)
        .order_by(ParticipationRow.node_id)
    )


def first_accepted_manifest(session: Session, run_id: str, round_number: int) -> SignedManifest | None:
    """The manifest whose tensors all others of the round must have."""
    found = session.scalar(
        select(ParticipationRow.manifest)
        .where(
            ParticipationRow.run_id == run_id,
            ParticipationRow.round_number == round_number,
            ParticipationRow.update_sha256.is_not(None),
            ParticipationRow.status != P.EXCLUDED,
        )
        .order_by(ParticipationRow.announced_at, ParticipationRow.node_id)
        .limit(1)
    )
    return None if found is None else SignedManifest.model_validate(found)


def config_of(session: Session, run_id: str) -> RunConfig:
    return RunConfig.model_validate(session.scalar(select(RunRow.config).where(RunRow.run_id == run_id)))


def initial_manifest(session: Session, run_id: str) -> SignedManifest | None:
    """Round 0's: every tensor of the run's network."""
    found = session.scalar(
        select(ParticipationRow.manifest)
        .where(
            ParticipationRow.run_id == run_id,
            ParticipationRow.round_number == 0,
            ParticipationRow.update_sha256.is_not(None),
        )
        .order_by(ParticipationRow.announced_at.desc())
        .limit(1)
    )
    return None if found is None else SignedManifest.model_validate(found)


def mean_aucs(session: Session, run_id: str) -> list[float | None]:
    """A_r of every completed round from round 0 on (methods.md 1.8)."""
    query = (
        select(RoundRow.mean_auc)
        .where(RoundRow.run_id == run_id, RoundRow.status == RoundStatus.COMPLETED)
        .order_by(RoundRow.round_number)
    )
    return list(session.scalars(query))


def refusals_of(session: Session, newest: RoundRow) -> Sequence[RefusalRow]:
    """Of the plan that is in force."""
    return session.scalars(
        select(RefusalRow)
        .where(
            RefusalRow.run_id == newest.run_id,
            RefusalRow.round_number == newest.round_number,
            RefusalRow.plan_version == newest.plan_version,
        )
        .order_by(RefusalRow.owner, RefusalRow.node_id)
    ).all()


def forget_missing(session: Session, newest: RoundRow, owner: str) -> None:
    """The owner has published again: whoever still does not find the update says so anew."""
    session.execute(
        delete(RefusalRow).where(
            RefusalRow.run_id == newest.run_id,
            RefusalRow.round_number == newest.round_number,
            RefusalRow.owner == owner,
            RefusalRow.kind == "missing",
        )
    )


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
        .where(or_(_next(), _departed(), _reported()))
        .order_by(RunRow.run_id)
    )


_DUE = _due()
_DUE_ONE = _DUE.where(RunRow.run_id == _RUN_ID)
