"""Verifiers' words about updates of the plan (rule 5): the owner is asked again, or the update is taken out for all."""

from coordinator.kit.problems import NotFoundError
from coordinator.rounds import files, repository
from coordinator.rounds.errors import PlanSupersededError, RefusalInvalidError, RoundOverError, RoundUnknownError
from coordinator.rounds.facts import RunFacts
from coordinator.rounds.moves import Act
from coordinator.rounds.plan import IN_PLAN, fuse_by_all
from coordinator.tables import ParticipationRow, RefusalRow, RoundRow
from hsl_model.protocol.messages import FusionPlan, RefusalKind, RefusalReport
from hsl_model.protocol.states import ParticipationStatus, RoundStatus


def refuse(act: Act, node_id: str, run_id: str, round_number: int, said: RefusalReport) -> None:
    """Keep one verifier's word; the same again changes nothing. MISSING asks the owner to publish again; LOST is the
    owner's own answer to that, when it cannot."""
    newest = repository.lock_round(act.session, run_id, round_number)
    if newest is None:
        raise NotFoundError(what="round", name=f"{run_id}/{round_number}")
    if act.session.get(ParticipationRow, (run_id, round_number, node_id)) is None:
        raise RoundUnknownError(node_id=node_id, run_id=run_id, round_number=round_number)
    if newest.status != RoundStatus.FUSING:
        raise RoundOverError(run_id=run_id, round_number=round_number, status=newest.status)
    if said.plan_version != newest.plan_version:
        raise PlanSupersededError(round_number=round_number, plan_version=newest.plan_version)
    if newest.fused_file_sha256 is not None and said.update_sha256 == newest.fused_file_sha256:
        _refuse_fused(act, newest, node_id, said)
        return
    entries = FusionPlan.model_validate(newest.plan).entries
    is_known = (said.owner, said.update_sha256) in {(e.node_id, e.update_sha256) for e in entries}
    if not is_known or (said.kind is RefusalKind.LOST and said.owner != node_id):
        raise RefusalInvalidError(round_number=round_number, update_sha256=said.update_sha256, owner=said.owner)
    if _keep(act, newest, node_id, said) and said.kind is RefusalKind.MISSING:
        _ask_owner(act, newest, said.owner)
    act.session.flush()


def _refuse_fused(act: Act, newest: RoundRow, node_id: str, said: RefusalReport) -> None:
    """Wrong or missing bytes in a fuser's folder: others hold the same file, or are asked for it (rule 7).

    Right bytes that are not acceptable are all fusers' work. One word takes nobody out: every member fuses.
    """
    is_known = files.unpublish(act, newest.run_id, said.update_sha256, said.owner)
    if is_known or said.kind is RefusalKind.CONTENT:
        _note(act, "fused_file.refused", newest, node_id, said)
    if said.kind is RefusalKind.CONTENT and (facts := repository.load(act.session, newest.run_id)) is not None:
        fuse_by_all(act, facts, newest, f"refused by {node_id}")


def _keep(act: Act, newest: RoundRow, node_id: str, said: RefusalReport) -> bool:
    """False when exactly this was said before."""
    key = (newest.run_id, newest.round_number, newest.plan_version, said.owner, node_id)
    row = act.session.get(RefusalRow, key, populate_existing=True)
    if row is not None and (row.kind, row.reason) == (said.kind, said.reason):
        return False
    if row is None:
        row = RefusalRow(
            run_id=newest.run_id,
            round_number=newest.round_number,
            plan_version=newest.plan_version,
            owner=said.owner,
            node_id=node_id,
        )
        act.session.add(row)
    row.kind, row.reason, row.at = said.kind.value, said.reason, act.now
    _note(act, "update.refused", newest, node_id, said)
    return True


def _note(act: Act, kind: str, newest: RoundRow, verifier: str, said: RefusalReport) -> None:
    act.note(
        kind,
        newest.run_id,
        newest.round_number,
        said.owner,
        verifier=verifier,
        refusal=said.kind.value,
        reason=said.reason,
        update_sha256=said.update_sha256,
    )


def _ask_owner(act: Act, newest: RoundRow, owner: str) -> None:
    row = act.session.get(ParticipationRow, (newest.run_id, newest.round_number, owner), populate_existing=True)
    if row is not None and row.republish_since is None:
        row.republish_since = act.now


def rejected_updates(act: Act, facts: RunFacts, newest: RoundRow, *, expired: bool) -> dict[str, str]:
    """Owner -> reason of the updates that the plan has to do without.

    `lost`: its owner says that it has no copy either, and no deadline would bring it back. `refused`: the content was
    refused by a majority of the others that fuse the plan: of its fusers and audit, where it names some. `missing`:
    nobody could find it, and its owner did not publish it again before the deadline, or left.
    """
    plan = facts.plan()
    voters = {row.node_id for row in facts.having(*IN_PLAN) if plan is not None and plan.is_fused_by(row.node_id)}
    rows = repository.refusals_of(act.session, newest)
    rejected = {}
    for entry in plan.entries if plan else ():
        owner = facts.participations[entry.node_id]
        others = voters - {entry.node_id}
        against = {r.node_id for r in rows if (r.owner, r.kind) == (entry.node_id, RefusalKind.CONTENT)} & others
        if any((r.owner, r.kind) == (entry.node_id, RefusalKind.LOST) for r in rows):
            rejected[entry.node_id] = "lost"
        elif against and len(against) * 2 > len(others):
            rejected[entry.node_id] = "refused"
        elif owner.republish_since and (expired or owner.status == ParticipationStatus.EXCLUDED):
            rejected[entry.node_id] = "missing"
    return rejected
