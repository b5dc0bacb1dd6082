"""The SQL of rounds. Whoever changes a run locks its row first and its newest round next: one order, no deadlock.

Statements that every message executes are built once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import BindParameter, Select, bindparam, delete, select
from sqlalchemy.orm import Session, defer

from coordinator.rounds.facts import RunFacts, Spoken, outcome_of, voices_of
from coordinator.tables import (
    LedgerRow,
    MemberRow,
    NodeRow,
    ParticipationRow,
    PublishedFileRow,
    RefusalRow,
    RoundRow,
    RunRow,
)
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.manifest import SignedManifest
from hsl_model.protocol.messages import FusionReport
from hsl_model.protocol.states import ParticipationStatus, RoundStatus, RunStatus

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
    NodeRow.key_history,
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
_VOICES: BindParameter[str] = bindparam("voices", expanding=True)
_REPORTS = select(ParticipationRow.node_id, ParticipationRow.redo_fusion, ParticipationRow.report).where(
    ParticipationRow.run_id == _RUN_ID,
    ParticipationRow.round_number == bindparam("round_number"),
    ParticipationRow.node_id.in_(_VOICES),
    ParticipationRow.report.is_not(None),
)
_ON_HUB = select(PublishedFileRow.node_id, PublishedFileRow.file_sha256).where(
    PublishedFileRow.run_id == _RUN_ID, PublishedFileRow.node_id.in_(_VOICES)
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
        spoken=_spoken(session, newest),
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
        spoken=_spoken(session, newest),
    )


def _spoken(session: Session, newest: RoundRow | None) -> Spoken:
    if newest is None or newest.status != RoundStatus.FUSING or not (voices := voices_of(newest)):
        return Spoken()
    key = {"run_id": newest.run_id, "voices": voices}
    outcomes = {}
    for node_id, attempt, report in session.execute(_REPORTS, {**key, "round_number": newest.round_number}):
        said = FusionReport.model_validate(report)
        if (said.plan_version, said.attempt) == (newest.plan_version, attempt):
            outcomes[node_id] = outcome_of(said)
    published = {(node_id, file_sha256) for node_id, file_sha256 in session.execute(_ON_HUB, key)}
    on_hub = (node_id for node_id, found in outcomes.items() if (node_id, found.file_sha256) in published)
    return Spoken(outcomes, frozenset(on_hub))


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
