"""Completing the ledger from the nodes' records: the rounds that all had completed when the backup was already old.

    records of round r ──> whose fusion plan and digest do most of its members agree on (as in every round)?
                       ──> is every update of that plan there with its signed manifest, and does it fit the plan?
                       ──> were those updates trained from the fused model of round r - 1, as this ledger has it?
                       ──> then: the round is written as completed, by the same moves as ever, and r + 1 is looked at

What a majority does not say, or no manifest proves, is not written: the run goes on with the last round that is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from coordinator.ledger import repository as ledger
from coordinator.nodes.keys import every_key
from coordinator.rounds import fusion, repository
from coordinator.rounds.announce import accept
from coordinator.rounds.facts import UNANNOUNCED, RunFacts
from coordinator.rounds.moves import Act, move_members, move_round
from coordinator.rounds.opening import add_members, open_round
from coordinator.rounds.plan import IN_PLAN
from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.ledger import RoundRecord
from hsl_model.protocol.manifest import SignedManifest, UpdateManifest, verify_by_any
from hsl_model.protocol.messages import FusionPlan, FusionReport, PlanEntry
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, NodeStatus, ParticipationStatus, RoundStatus
from hsl_model.protocol.weights import plan_weights

NO_RECORD = "no_record"  # in the plan, and its site has sent no record of the round
NOT_IN_PLAN = "not_in_plan"  # a member of the round without an update in its plan


class ObstacleError(Exception):
    """Why a round cannot be replayed: a sentence for the admin."""


@dataclass(frozen=True)
class Replay:
    """A round as most of its members have adopted it."""

    plan: FusionPlan
    fused_digest: str
    manifests: Mapping[str, SignedManifest]
    reports: Mapping[str, FusionReport]  # also of nodes that were late, or deviated


def first_missing(newest: RoundRow | None) -> int:
    """The first round that this ledger does not have as completed."""
    if newest is None:
        return 0
    return newest.round_number + int(newest.status == RoundStatus.COMPLETED)


def replays(session: Session, facts: RunFacts, gone: frozenset[str]) -> tuple[list[Replay], str | None]:
    """The rounds that can be replayed, one after the other, and why the next one cannot. `gone`: revoked nodes."""
    found: list[Replay] = []
    number = first_missing(facts.newest)
    before = _fused_digest(session, facts, number - 1)
    while records := ledger.records(session, facts.run.run_id, number):
        try:
            replay = _judge(facts, records, gone, before)
            _check_held(facts, replay)
        except ObstacleError as obstacle:
            return found, f"Round {number} cannot be replayed: {obstacle}"
        found.append(replay)
        number, before = number + 1, replay.fused_digest
    return found, None


def _fused_digest(session: Session, facts: RunFacts, number: int) -> str | None:
    row = session.get(RoundRow, (facts.run.run_id, number)) if number >= 0 else None
    return None if row is None else row.fused_digest


def _judge(facts: RunFacts, records: Sequence[RoundRecord], gone: frozenset[str], before: str | None) -> Replay:
    said: dict[tuple[FusionPlan, str], list[str]] = {}
    for record in records:
        said.setdefault((record.plan, record.report.fused_digest), []).append(record.node_id)
    (plan, digest), agreeing = max(said.items(), key=lambda item: (len(item[1]), item[1]))
    voters = _voters(facts, plan) - gone
    votes = voters & set(agreeing)
    if len(votes) * 2 <= len(voters):
        silent = ", ".join(sorted(voters - {record.node_id for record in records}))
        rest = f"no record has come from {silent}" if silent else "the others say something else"
        raise ObstacleError(f"{len(votes)} of its {len(voters)} members agree, which is no majority; {rest}.")
    manifests = {entry.node_id: _manifest_of(facts, plan, entry, records) for entry in plan.entries}
    _check_plan(facts, plan, manifests, before)
    return Replay(plan, digest, manifests, {record.node_id: record.report for record in records})


def _voters(facts: RunFacts, plan: FusionPlan) -> set[str]:
    """Whose digests were compared: the owners of the updates; in round 0 everybody fused the initial weights."""
    return set(facts.can_join()) if plan.round_number == 0 else {entry.node_id for entry in plan.entries}


def _manifest_of(facts: RunFacts, plan: FusionPlan, entry: PlanEntry, records: Sequence[RoundRecord]) -> SignedManifest:
    sent = (signed for record in records for signed in record.manifests)
    signed = next((one for one in sent if one.sha256 == entry.manifest_sha256), None)
    node = facts.nodes.get(entry.node_id)
    if signed is None or node is None:
        raise ObstacleError(f"the manifest of {entry.node_id}, which its plan names, is with nobody who has answered.")
    try:
        manifest = verify_by_any(signed, every_key(node))
    except ManifestError as error:
        raise ObstacleError(error.sentence()) from error
    if _named(manifest) != (plan.run_id, plan.round_number, *_entry(entry)):
        raise ObstacleError(f"the manifest of {entry.node_id} is not the one its plan speaks of.")
    return signed


def _named(manifest: UpdateManifest) -> tuple[object, ...]:
    update = (manifest.node_id, manifest.update_sha256, manifest.update_bytes, manifest.num_cases)
    return (manifest.run_id, manifest.round_number, *update)


def _entry(entry: PlanEntry) -> tuple[object, ...]:
    return (entry.node_id, entry.update_sha256, entry.update_bytes, entry.num_cases)


def _check_plan(facts: RunFacts, plan: FusionPlan, manifests: Mapping[str, SignedManifest], before: str | None) -> None:
    """The plan follows the run's rules, and its updates began with the model this ledger has of the round before."""
    method = method_facts(facts.config.method.name)
    weighting = "uniform" if plan.round_number == 0 else method.weighting
    weights = plan_weights(weighting, {entry.node_id: entry.num_cases for entry in plan.entries})
    if {entry.node_id: entry.weight for entry in plan.entries} != weights:
        raise ObstacleError("the weights of its plan are not those of the run's method.")
    if plan.round_number > 0 and method.fused is Fused.COMMON:
        strange = sorted(node for node, one in manifests.items() if one.manifest.start_digest != before)
        if strange:
            raise ObstacleError(
                f"the update of {', '.join(strange)} did not begin with the round before as it is here."
            )


def _check_held(facts: RunFacts, replay: Replay) -> None:
    """What this ledger accepted before the backup stands: the first update of a node and round is the only one."""
    newest = facts.newest
    if newest is None or newest.round_number != replay.plan.round_number:
        return
    if newest.status not in (RoundStatus.OPEN, RoundStatus.FUSING):
        raise ObstacleError(f"it is {newest.status} here.")
    for entry in replay.plan.entries:
        row = facts.participations.get(entry.node_id)
        if row is None:
            continue
        if row.status == ParticipationStatus.EXCLUDED or row.update_sha256 not in (None, entry.update_sha256):
            raise ObstacleError(f"{entry.node_id} is here with another update, or excluded ({row.reason}).")


# --- writing it ------------------------------------------------------------------------------------------------------


def write(act: Act, run_id: str, replay: Replay) -> None:
    """The round as completed, by the moves of every round; the events say who acted."""
    facts = _ready(act, run_id, replay)
    newest = facts.newest
    assert newest is not None  # noqa: S101 - `_ready` has just opened it
    _announced(act, facts, replay)
    _frozen(act, newest, replay.plan)
    _fused(act, facts, replay)
    act.note(
        "round.recovered",
        run_id,
        newest.round_number,
        fused_digest=replay.fused_digest,
        num_records=len(replay.reports),
    )
    act.session.flush()
    fusion.compare(act, _loaded(act, run_id), newest)
    act.session.flush()


def _ready(act: Act, run_id: str, replay: Replay) -> RunFacts:
    """With the round open, or fusing as it was, and a row for everybody who speaks or is spoken of."""
    facts, number = _loaded(act, run_id), replay.plan.round_number
    if facts.newest is None or facts.newest.round_number < number:
        open_round(act, facts, number)
        facts = _loaded(act, run_id)
    involved = {entry.node_id for entry in replay.plan.entries} | set(replay.reports)
    add_members(act, run_id, number, sorted(involved - set(facts.participations)))
    return _loaded(act, run_id)


def _loaded(act: Act, run_id: str) -> RunFacts:
    facts = repository.load(act.session, run_id)
    if facts is None:
        raise LookupError(run_id)
    return facts


def _announced(act: Act, facts: RunFacts, replay: Replay) -> None:
    for node_id, signed in replay.manifests.items():
        row = facts.participations[node_id]
        if row.update_sha256 is None:
            accept(act, row, signed)


def _frozen(act: Act, newest: RoundRow, plan: FusionPlan) -> None:
    if newest.status == RoundStatus.OPEN:
        move_round(act, newest, RoundStatus.FUSING, frozen_at=act.now)
    # Its fusers are done, and what they had published is for retention to find: reports alone are compared here.
    by_all = plan.model_copy(update={"fusers": (), "audit": None})
    newest.plan, newest.plan_version = by_all.model_dump(mode="json"), plan.version


def _fused(act: Act, facts: RunFacts, replay: Replay) -> None:
    """Everybody's report; whoever sent none, deviated, or was not in the plan is left out by name."""
    rows = facts.participations
    owners = {entry.node_id for entry in replay.plan.entries}
    members = set(rows) if replay.plan.round_number == 0 else owners
    for node_id, said in replay.reports.items():
        row = rows[node_id]
        row.report, row.reported_at, row.redo_fusion = said.model_dump(mode="json"), act.now, said.attempt
    act.session.flush()
    fusing = [rows[node] for node in members if rows[node].status in (*UNANNOUNCED, ParticipationStatus.ANNOUNCED)]
    move_members(act, fusing, ParticipationStatus.FUSING)
    for row in rows.values():
        if (reason := _why_out(row, members, replay)) is not None:
            move_members(act, [row], ParticipationStatus.EXCLUDED, reason)


def _why_out(row: ParticipationRow, members: set[str], replay: Replay) -> str | None:
    if row.status == ParticipationStatus.EXCLUDED:
        return None
    said = replay.reports.get(row.node_id)
    if row.node_id not in members or row.status not in IN_PLAN:
        return NOT_IN_PLAN if said is None else "late"
    if said is None:
        return NO_RECORD
    return None if said.fused_digest == replay.fused_digest else "digest"


def is_gone(facts: RunFacts) -> frozenset[str]:
    return frozenset(node for node, row in facts.nodes.items() if row.status == NodeStatus.REVOKED)
