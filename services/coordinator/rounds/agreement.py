"""A plan that names fusers: what they and the audit say is compared before any other member takes a fused file.

the fusers have reported and published, all the same  -> their file is in the ledger; the other members fetch it
                                        not the same  -> once the audit has spoken: the minority fuses once more, then
                                                         is EXCLUDED(digest) and replaced; without a majority all of
                                                         them fuse once more, then every member fuses
one of them is late at the report deadline            -> it is replaced; it stays a member and fetches the file
the audit deviates from the file                      -> it fuses once more, then every member fuses
the file is on nobody's shelf at the report deadline  -> the fusers are replaced

Replaced means plan version + 1 with the same updates (`plan.replace_fusers`), so the fused bits stay what they were.
"""

from collections import Counter
from collections.abc import Sequence

from coordinator.rounds import files
from coordinator.rounds.facts import RunFacts, voices_of
from coordinator.rounds.fusion import fuse_again
from coordinator.rounds.moves import Act, move_members
from coordinator.rounds.plan import IN_PLAN, fuse_by_all, renew_deadline, replace_fusers
from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.states import ParticipationStatus


def is_awaited(facts: RunFacts) -> bool:
    """The plan names fusers, and they do not agree yet."""
    return facts.newest is not None and bool(voices_of(facts.newest)) and facts.agreed is None


def settle(act: Act, facts: RunFacts, newest: RoundRow, *, expired: bool) -> bool:
    """True when something was decided."""
    if not voices_of(newest):
        return False
    if facts.agreed is not None:
        return _audited(act, facts, newest) or (expired and _lost(act, facts, newest))
    fusers, spoken = voices_of(newest)[:-1], facts.spoken
    late = [node for node in fusers if not spoken.is_done(node)]
    differ = len({spoken.outcomes[node] for node in fusers if node in spoken.outcomes}) > 1
    if not late and not differ:
        _agree(act, facts, newest, fusers)
        return True
    if differ and set(voices_of(newest)) <= set(spoken.outcomes):
        _decide(act, facts, newest)
        return True
    if expired:
        replace_fusers(act, facts, newest, late or voices_of(newest)[-1:], "no_report")
    return expired


def _agree(act: Act, facts: RunFacts, newest: RoundRow, fusers: Sequence[str]) -> None:
    """The others get the time of a fusion for fetching it."""
    outcome = facts.spoken.outcomes[fusers[0]]
    newest.fused_digest, newest.fused_file_sha256, newest.fused_file_bytes = outcome
    renew_deadline(act, facts.config, newest)
    act.note(
        "round.fusers_agree",
        newest.run_id,
        newest.round_number,
        version=newest.plan_version,
        fused_digest=outcome.fused_digest,
        file_sha256=outcome.file_sha256,
    )
    act.session.flush()


def _decide(act: Act, facts: RunFacts, newest: RoundRow) -> None:
    """Fusers differ, and the audit has spoken."""
    outcomes = facts.spoken.outcomes
    rows = [facts.participations[node] for node in voices_of(newest)]
    outcome, votes = Counter(outcomes.values()).most_common(1)[0]
    if votes * 2 <= len(rows):
        if any(row.redo_fusion > 0 for row in rows):
            fuse_by_all(act, facts, newest, "the fusers have no majority")
        else:
            fuse_again(act, facts, newest, rows)
        return
    deviating = [row for row in rows if outcomes[row.node_id] != outcome]
    if again := [row for row in deviating if row.redo_fusion == 0]:
        fuse_again(act, facts, newest, again)
        return
    move_members(act, deviating, ParticipationStatus.EXCLUDED, "digest")
    replace_fusers(act, facts, newest, [row.node_id for row in deviating], "digest")


def _audited(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    """A deviating audit is one against k, and yet the only one who was not chosen in turn: heard by name."""
    audit = facts.participations[voices_of(newest)[-1]]
    found = facts.spoken.outcomes.get(audit.node_id)
    if audit.status not in IN_PLAN or found is None or found == facts.agreed:
        return False
    act.note(
        "round.audit_deviates",
        newest.run_id,
        newest.round_number,
        audit.node_id,
        fused_digest=found.fused_digest,
        agreed_digest=newest.fused_digest,
        attempt=audit.redo_fusion,
    )
    if audit.redo_fusion == 0:
        fuse_again(act, facts, newest, [audit])
    else:
        fuse_by_all(act, facts, newest, f"the audit by {audit.node_id} deviates")
    return True


def _lost(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    """Members still miss the file that was agreed on: they are not to blame for what they could not fetch."""
    file_sha256 = newest.fused_file_sha256
    if file_sha256 is None or not files.is_wanted(act.session, newest.run_id, file_sha256):
        return False
    fusers = [node for node in voices_of(newest)[:-1] if facts.participations[node].status in IN_PLAN]
    replace_fusers(act, facts, newest, fusers, "file_missing")
    return True


def note_unaudited(act: Act, newest: RoundRow, left_out: Sequence[ParticipationRow]) -> None:
    """The round goes on without the audit's word, and its record says so."""
    voices = voices_of(newest)
    for row in left_out:
        if voices and row.node_id == voices[-1]:
            act.note("round.audit_missing", newest.run_id, newest.round_number, row.node_id)
