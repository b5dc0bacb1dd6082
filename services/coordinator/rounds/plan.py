"""The fusion plan: frozen once, and from then on only ever smaller, each time as a new version (rules 4 and 5)."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from coordinator.rounds.facts import UNANNOUNCED, RunFacts
from coordinator.rounds.fusers import EVERYBODY, Fusers
from coordinator.rounds.moves import Act, move_members, move_round
from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import FusionPlan, PlanEntry
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import ParticipationStatus, RoundStatus
from hsl_model.protocol.weights import plan_weights

IN_PLAN = (ParticipationStatus.FUSING, ParticipationStatus.FUSED)


def freeze(act: Act, facts: RunFacts, newest: RoundRow) -> None:
    """OPEN -> FUSING with plan version 1. Members without an accepted update are EXCLUDED(late), by name.

    Round 0 has one entry, the initial weights, and every member fuses it.
    """
    announced = facts.having(ParticipationStatus.ANNOUNCED)
    rest = facts.having(*UNANNOUNCED)
    plan = _build(facts, newest, announced, version=1)
    move_round(act, newest, RoundStatus.FUSING, frozen_at=act.now, **_in_force(act, facts.config, plan))
    _note_fusers(act, plan)
    if newest.round_number == 0:
        announced += rest
    else:
        move_members(act, rest, ParticipationStatus.EXCLUDED, "late")
    move_members(act, announced, ParticipationStatus.FUSING)


def drop(act: Act, facts: RunFacts, newest: RoundRow, owner: str, reason: str) -> None:
    """Take a member out of the round; the plan gets version + 1 where its update was in it.

    Whoever had fused the older version fuses again. Round 0's initial weights belong to the run, not to the site that
    built them (rule 8): that plan stays when the site leaves. With nobody left there is no plan to change; the tick
    ends the run.
    """
    row = facts.participations[owner]
    was_in_plan = row.status in IN_PLAN
    move_members(act, [row], ParticipationStatus.EXCLUDED, reason, republish_since=None)
    remaining = facts.having(*IN_PLAN)
    if newest.round_number == 0 or not was_in_plan or not remaining:
        return
    plan = _build(facts, newest, remaining, version=newest.plan_version + 1)
    act.note("round.plan_changed", newest.run_id, newest.round_number, version=plan.version, without=owner)
    _supersede(act, facts, newest, plan)


def replace_fusers(act: Act, facts: RunFacts, newest: RoundRow, gone: Collection[str], reason: str) -> None:
    """Version + 1 with the same updates, so with the same fused bits, and others in the place of these fusers."""
    held = FusionPlan.model_validate(newest.plan)
    for node_id in sorted(gone):
        act.note("round.fuser_replaced", newest.run_id, newest.round_number, node_id, reason=reason)
    replaced = tuple(sorted({*held.replaced, *gone}))
    candidates = {row.node_id for row in facts.having(*IN_PLAN)} - set(replaced)
    chosen = facts.election().among(candidates, Fusers(held.fusers, held.audit))
    _change_fusers(act, facts, newest, chosen, replaced)


def fuse_by_all(act: Act, facts: RunFacts, newest: RoundRow, reason: str) -> None:
    """Version + 1 with the same updates, fused by every member: a majority of all settles what the fusers cannot."""
    held = FusionPlan.model_validate(newest.plan)
    act.note("round.fused_by_all", newest.run_id, newest.round_number, reason=reason)
    _change_fusers(act, facts, newest, EVERYBODY, tuple(sorted({*held.replaced, *held.voices})))


def _change_fusers(act: Act, facts: RunFacts, newest: RoundRow, chosen: Fusers, replaced: tuple[str, ...]) -> None:
    held = FusionPlan.model_validate(newest.plan)
    changes = {"version": held.version + 1, "fusers": chosen.names, "audit": chosen.audit, "replaced": replaced}
    _supersede(act, facts, newest, held.model_copy(update=changes))


def _supersede(act: Act, facts: RunFacts, newest: RoundRow, plan: FusionPlan) -> None:
    """A newer version is in force; what was fused by the older one is thrown away."""
    for name, value in _in_force(act, facts.config, plan).items():
        setattr(newest, name, value)
    _note_fusers(act, plan)
    remaining = facts.having(*IN_PLAN)
    ask_anew(act, remaining)
    for one in remaining:
        one.redo_fusion = 0
    act.session.flush()


def _note_fusers(act: Act, plan: FusionPlan) -> None:
    if plan.fusers:
        act.note(
            "round.fusers_chosen",
            plan.run_id,
            plan.round_number,
            version=plan.version,
            fusers=", ".join(plan.fusers),
            audit=plan.audit,
        )


def ask_anew(act: Act, rows: Sequence[ParticipationRow]) -> None:
    """What these members have reported no longer counts."""
    move_members(act, [row for row in rows if row.status == ParticipationStatus.FUSED], ParticipationStatus.FUSING)
    for row in rows:
        row.reported_at = None


def renew_deadline(act: Act, config: RunConfig, newest: RoundRow) -> None:
    """A fusion that has to be done again gets the time of a fusion."""
    if config.report_deadline_s is not None:
        newest.report_deadline_at = act.now + timedelta(seconds=config.report_deadline_s)


def _build(facts: RunFacts, newest: RoundRow, rows: Sequence[ParticipationRow], version: int) -> FusionPlan:
    rows = sorted(rows, key=lambda row: row.node_id)
    weighting = "uniform" if newest.round_number == 0 else method_facts(facts.config.method.name).weighting
    weights = plan_weights(weighting, {row.node_id: row.num_cases or 0 for row in rows})
    held = facts.plan()
    replaced = held.replaced if held else ()
    chosen = facts.election().among(
        {row.node_id for row in rows} - set(replaced), Fusers(held.fusers, held.audit) if held else EVERYBODY
    )
    return FusionPlan(
        run_id=newest.run_id,
        round_number=newest.round_number,
        version=version,
        entries=tuple(_entry(row, weights[row.node_id]) for row in rows),
        fusers=chosen.names,
        audit=chosen.audit,
        replaced=replaced,
    )


def _entry(row: ParticipationRow, weight: float) -> PlanEntry:
    return PlanEntry.model_validate(
        {
            "node_id": row.node_id,
            "update_sha256": row.update_sha256,
            "update_bytes": row.update_bytes,
            "manifest_sha256": row.manifest_sha256,
            "weight": weight,
            "num_cases": row.num_cases,
        }
    )


def _in_force(act: Act, config: RunConfig, plan: FusionPlan) -> dict[str, object]:
    deadline_s = config.report_deadline_s
    return {
        "plan": plan.model_dump(mode="json"),
        "plan_version": plan.version,
        "fused_digest": None,
        "fused_file_sha256": None,
        "fused_file_bytes": None,
        "report_deadline_at": None if deadline_s is None else act.now + timedelta(seconds=deadline_s),
    }
