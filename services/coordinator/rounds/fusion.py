"""Fusion reports: kept once for each plan and attempt, compared when nobody owes one, and then the round is closed.

all equal                               -> COMPLETED
a minority deviates                     -> it downloads and fuses once more; deviating again: EXCLUDED(digest)
no majority                             -> everybody fuses once more; still none: the run is PAUSED, and everybody
                                           fuses once more when an admin resumes it
report deadline passed, quorum reported -> the others are EXCLUDED(no_report) and catch up
"""

from collections import Counter
from collections.abc import Sequence
from statistics import mean

from coordinator.kit.problems import NotFoundError
from coordinator.rounds import repository
from coordinator.rounds.errors import (
    AlreadyReportedError,
    PlanSupersededError,
    ReportInvalidError,
    RoundOverError,
    RoundUnknownError,
)
from coordinator.rounds.facts import Outcome, RunFacts, outcome_of, report_of
from coordinator.rounds.moves import Act, move_members, move_round, move_run
from coordinator.rounds.plan import IN_PLAN, ask_anew, renew_deadline
from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.convergence import best_round
from hsl_model.protocol.messages import FusionReport
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, ParticipationStatus, RoundStatus, RunStatus

DISAGREEMENT = "digest_disagreement"


def report(act: Act, node_id: str, run_id: str, round_number: int, said: FusionReport) -> None:
    """Keep what a node reports. The same again changes nothing; the digests may not change within an attempt."""
    newest = repository.lock_round(act.session, run_id, round_number)
    if newest is None:
        raise NotFoundError(what="round", name=f"{run_id}/{round_number}")
    row = act.session.get(ParticipationRow, (run_id, round_number, node_id), populate_existing=True)
    if row is None:
        raise RoundUnknownError(node_id=node_id, run_id=run_id, round_number=round_number)
    if newest.status in (RoundStatus.CANCELLED, RoundStatus.FAILED):
        raise RoundOverError(run_id=run_id, round_number=round_number, status=newest.status)
    if said.plan_version != newest.plan_version or said.attempt != row.redo_fusion:
        raise PlanSupersededError(round_number=round_number, plan_version=newest.plan_version)
    held = report_of(row)
    if held is not None and (held.plan_version, held.attempt) == (said.plan_version, said.attempt):
        if (held.fused_digest, held.file_sha256) != (said.fused_digest, said.file_sha256):
            raise AlreadyReportedError(node_id=node_id, fused_digest=held.fused_digest)
        if held.validation is not None or said.validation is None:
            return
    _check_file(act, row, said)
    row.report = said.model_dump(mode="json")
    if said.validation is not None:
        row.reported_at = act.now
        act.note(
            "participation.reported",
            run_id,
            round_number,
            node_id,
            plan_version=said.plan_version,
            attempt=said.attempt,
            fused_digest=said.fused_digest,
            validation_auc=said.validation.auc,
        )
    act.session.flush()


def _check_file(act: Act, row: ParticipationRow, said: FusionReport) -> None:
    """A common model must be found again by anybody who misses it (rule 7), so its file has to be named."""
    method = repository.config_of(act.session, row.run_id).method.name
    is_common = row.round_number == 0 or method_facts(method).fused is Fused.COMMON
    if is_common and (said.file_sha256 is None or said.file_bytes is None):
        raise ReportInvalidError(
            node_id=row.node_id,
            round_number=row.round_number,
            explanation="file_sha256 and file_bytes of the fused model are missing",
        )


def compare(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    """Nobody owes a report: judge them. True when something was decided."""
    rows = facts.having(*IN_PLAN)
    outcomes = {row.node_id: outcome_of(said) for row in rows if (said := report_of(row)) is not None}
    if not rows:
        return False
    outcome = facts.agreed
    if outcome is None:
        outcome, votes = Counter(outcomes.values()).most_common(1)[0]
        if votes * 2 <= len(rows):
            return _disagree(act, facts, newest, rows)
    deviating = [row for row in rows if outcomes[row.node_id] != outcome]
    agreeing = [row for row in rows if outcomes[row.node_id] == outcome]
    again = [row for row in deviating if row.redo_fusion == 0]
    move_members(act, [row for row in deviating if row.redo_fusion > 0], ParticipationStatus.EXCLUDED, "digest")
    move_members(act, [row for row in agreeing if row.status == ParticipationStatus.FUSING], ParticipationStatus.FUSED)
    if again:
        fuse_again(act, facts, newest, again)
    else:
        _complete(act, facts, newest, outcome)
    return True


def _disagree(act: Act, facts: RunFacts, newest: RoundRow, rows: Sequence[ParticipationRow]) -> bool:
    """Everybody fuses once more; if that was so before, a person has to look, and until then nobody fuses."""
    if not any(row.redo_fusion > 0 for row in rows):
        fuse_again(act, facts, newest, rows)
        return True
    if facts.run.reason == DISAGREEMENT:
        return False
    act.note("round.digests_disagree", newest.run_id, newest.round_number, num_members=len(rows))
    pause(act, facts, DISAGREEMENT)
    return True


def try_again(act: Act, run_id: str) -> None:
    """An admin has looked and goes on: unless the plan has changed meanwhile, everybody fuses once more."""
    facts = repository.load(act.session, run_id)
    if facts is None or facts.newest is None or facts.newest.status != RoundStatus.FUSING:
        return
    rows = facts.having(*IN_PLAN)
    if all(row.reported_at is not None for row in rows):
        fuse_again(act, facts, facts.newest, rows)


def fuse_again(act: Act, facts: RunFacts, newest: RoundRow, rows: Sequence[ParticipationRow]) -> None:
    ask_anew(act, rows)
    for row in rows:
        row.redo_fusion += 1
        act.note("participation.fuse_again", row.run_id, row.round_number, row.node_id, attempt=row.redo_fusion)
    renew_deadline(act, facts.config, newest)
    act.session.flush()


def pause(act: Act, facts: RunFacts, reason: str) -> None:
    """The coordinator itself stops a run that needs a person."""
    if facts.status is RunStatus.PAUSED:
        facts.run.reason = reason
    else:
        move_run(act, facts.run, RunStatus.PAUSED, paused_at=act.now, reason=reason)


def _complete(act: Act, facts: RunFacts, newest: RoundRow, outcome: Outcome) -> None:
    fused = facts.having(ParticipationStatus.FUSED)
    reports = [said for row in fused if (said := report_of(row)) is not None]
    aucs = [said.validation.auc for said in reports if said.validation and said.validation.auc is not None]
    is_common = facts.fused_kind is Fused.COMMON
    _record(act, facts, newest)
    move_round(
        act,
        newest,
        RoundStatus.COMPLETED,
        completed_at=act.now,
        fused_digest=outcome.fused_digest,
        fused_file_sha256=outcome.file_sha256 if is_common else None,
        fused_file_bytes=outcome.file_bytes if is_common else None,
        mean_auc=mean(aucs) if aucs else None,
    )
    facts.run.best_round = best_round(repository.mean_aucs(act.session, newest.run_id))


def _record(act: Act, facts: RunFacts, newest: RoundRow) -> None:
    """The participation record: who, cases, steps, weight, excluded and why (rule 13)."""
    plan = facts.plan()
    weights = {entry.node_id: entry.weight for entry in plan.entries} if plan else {}
    for node_id, row in facts.participations.items():
        said = report_of(row)
        act.note(
            "round.participation_record",
            newest.run_id,
            newest.round_number,
            node_id,
            status=row.status,
            reason=row.reason,
            num_cases=row.num_cases,
            num_steps=row.num_steps,
            weight=weights.get(node_id) if row.status == ParticipationStatus.FUSED else None,
            update_sha256=row.update_sha256,
            fused_digest=said.fused_digest if said else None,
            validation_auc=said.validation.auc if said and said.validation else None,
        )
