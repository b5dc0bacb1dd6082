"""Rounds as an admin sees them: the participation record, the plan, and what the newest one waits for."""

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from coordinator.kit.problems import NotFoundError
from coordinator.nodes import repository as nodes
from coordinator.rounds import repository
from coordinator.rounds.explain import Explainer
from coordinator.rounds.facts import LIVE_RUN, RunFacts, report_of
from coordinator.tables import ParticipationRow, RoundRow, RunRow
from hsl_model.protocol.manifest import UpdateMetrics
from hsl_model.protocol.messages import FusionPlan
from hsl_model.protocol.states import ParticipationStatus, RoundStatus
from hsl_model.protocol.views import ParticipationView, RoundView


def listing(run_id: str) -> Select[RoundRow]:
    return select(RoundRow).where(RoundRow.run_id == run_id).order_by(RoundRow.round_number)


class RoundViews:
    """Views of one run's rounds; its newest round is explained."""

    def __init__(self, session: Session, run_id: str, explainer: Explainer, now: datetime) -> None:
        run = session.get(RunRow, run_id)
        if run is None:
            raise NotFoundError(what="run", name=run_id)
        self._session = session
        self._facts = repository.look(session, run)
        self._explainer = explainer
        self._now = now

    def show(self, round_number: int) -> RoundView:
        row = self._session.get(RoundRow, (self._facts.run.run_id, round_number))
        if row is None:
            raise NotFoundError(what="round", name=f"{self._facts.run.run_id}/{round_number}")
        return self.view(row)

    def view(self, row: RoundRow) -> RoundView:
        newest = self._facts.newest
        is_newest = newest is not None and newest.round_number == row.round_number
        plan = None if row.plan is None else FusionPlan.model_validate(row.plan)
        weights = {entry.node_id: entry.weight for entry in plan.entries} if plan else {}
        members = self._session.scalars(repository.participations_of(row.run_id, row.round_number))
        doing = nodes.doing(self._session, row.run_id, row.round_number) if is_newest else {}
        return RoundView(
            run_id=row.run_id,
            round_number=row.round_number,
            status=RoundStatus(row.status),
            reason=row.reason,
            waiting=self._explainer.round(self._facts) if is_newest else None,
            plan=plan,
            fused_digest=row.fused_digest,
            fused_file_sha256=row.fused_file_sha256,
            mean_auc=row.mean_auc,
            participations=tuple(
                _participation(one, weights.get(one.node_id), doing.get(one.node_id)) for one in members
            ),
            opened_at=row.opened_at,
            frozen_at=row.frozen_at,
            completed_at=row.completed_at,
            deadline_in_s=deadline_in_s(self._facts, self._now) if is_newest else None,
        )


def deadline_in_s(facts: RunFacts, now: datetime) -> float | None:
    """Seconds until the newest round's deadline for what it waits for now; never below 0; stands still while paused."""
    newest = facts.newest
    if newest is None or facts.status not in LIVE_RUN:
        return None
    by_status = {RoundStatus.OPEN.value: newest.deadline_at, RoundStatus.FUSING.value: newest.report_deadline_at}
    deadline_at = by_status.get(newest.status)
    if deadline_at is None:
        return None
    return max(0.0, (deadline_at - (facts.run.paused_at or now)).total_seconds())


def _participation(row: ParticipationRow, weight: float | None, doing: nodes.Doing | None) -> ParticipationView:
    said = report_of(row)
    metrics = None if row.manifest is None else UpdateMetrics.model_validate(row.manifest["manifest"]["metrics"])
    return ParticipationView(
        node_id=row.node_id,
        status=ParticipationStatus(row.status),
        reason=row.reason,
        update_sha256=row.update_sha256,
        update_bytes=row.update_bytes,
        num_cases=row.num_cases,
        weight=weight,
        metrics=metrics,
        fused_digest=said.fused_digest if said else None,
        plan_version=said.plan_version if said else None,
        validation=said.validation if said else None,
        costs=said.costs if said else None,
        phase=doing.phase if doing else None,
        progress=doing.progress if doing else None,
    )
