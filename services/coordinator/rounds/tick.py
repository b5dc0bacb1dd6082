"""The loop of every run: a function of the tables and `now`. Killed at any instant, it goes on with the same round.

    run RUNNING, no round          -> open round 0 (the initial weights)
    round OPEN                     -> FUSING when all members have announced, or at the deadline with quorum;
                                      an upload that moves is given one extension
                                      round 0: when the initial weights are announced; at the deadline the next
                                      member is asked to build them
    round FUSING                   -> a refused or vanished update, or a member that leaves: plan version + 1
                                      a plan with fusers: they agree, or are replaced (agreement.py)
                                      reports of all (or at the report deadline of a quorum) -> compared (fusion.py)
    round COMPLETED                -> the next round, or the run is COMPLETED
    members revoked or withdrawn   -> EXCLUDED; quorum lost by it: run PAUSED; nobody left: run FAILED

While PAUSED no round opens, freezes or expires; fusions that were under way are compared and may close the round.
Called by one scheduled job, and by every message in its own transaction.
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from coordinator.events.service import TICK
from coordinator.rounds import agreement, fusion, refusals, repository
from coordinator.rounds.due import due_runs
from coordinator.rounds.facts import LIVE_RUN, UNANNOUNCED, RunFacts, departure
from coordinator.rounds.moves import Act, move_members, move_round, move_run
from coordinator.rounds.opening import open_round
from coordinator.rounds.plan import IN_PLAN, drop, freeze
from coordinator.rounds.quorum import lacking
from coordinator.tables import NodeRow, RoundRow
from hsl_model.protocol.convergence import should_stop
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus

MAX_EXTENSION_S = 300.0  # a site with a slow line must not hold the others for ever
MOVING_S = 60.0  # three heartbeats: an upload without news for longer does not count as moving
QUORUM_LOST = "quorum_lost"


def tick(session: Session, now: datetime) -> None:
    """Whatever time alone has made due, in every run."""
    for run_id in due_runs(session, now):
        advance(Act(session, now, TICK), run_id)


def advance(act: Act, run_id: str) -> None:
    """Move one run as far as its facts allow. Cheap when they allow nothing."""
    act.session.flush()
    while due_runs(act.session, act.now, run_id):
        facts = repository.load(act.session, run_id)
        if facts is None or not _step(act, facts):
            return
        act.session.flush()


def _step(act: Act, facts: RunFacts) -> bool:
    """One decision. True when something was moved, so that there may be more to decide."""
    if facts.status not in LIVE_RUN:
        return False
    newest, running = facts.newest, facts.status is RunStatus.RUNNING
    if newest is None or newest.status == RoundStatus.COMPLETED:
        return running and _go_on(act, facts)
    if _exclude_departed(act, facts, newest):
        return True
    if newest.status == RoundStatus.OPEN:
        return running and _collect(act, facts, newest)
    return _fuse(act, facts, newest)


def _go_on(act: Act, facts: RunFacts) -> bool:
    newest = facts.newest
    if newest is not None:
        aucs = repository.mean_aucs(act.session, newest.run_id)
        stop, reason = should_stop(aucs, facts.config.convergence, facts.config.num_rounds)
        if stop:
            return move_run(act, facts.run, RunStatus.COMPLETED, finished_at=act.now, reason=reason)
    if not facts.can_join():
        return _fail(act, facts, None, "No member is left; create a new run and invite sites to it.")
    open_round(act, facts, 0 if newest is None else newest.round_number + 1)
    return True


def _exclude_departed(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    leaving = {node: reason for node in facts.staying() if (reason := departure(facts, node))}
    if not leaving:
        return False
    before = facts.staying()
    for node, reason in leaving.items():
        drop(act, facts, newest, node, reason)
    _after_loss(act, facts, newest, before)
    return True


def _after_loss(act: Act, facts: RunFacts, newest: RoundRow, before: list[str]) -> None:
    """Members were lost for good: a person decides whether the run goes on below its quorum (by resuming it)."""
    staying = facts.staying()
    if not staying:
        _fail(act, facts, newest, "No member is left in the round; create a new run and invite sites to it.")
    elif lacking(facts.config.quorum, staying) and not lacking(facts.config.quorum, before):
        fusion.pause(act, facts, QUORUM_LOST)


def _collect(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    announced = facts.having(ParticipationStatus.ANNOUNCED)
    expired = newest.deadline_at is not None and newest.deadline_at <= act.now
    if newest.round_number == 0:
        if announced:
            freeze(act, facts, newest)
            return True
        return expired and _next_initialiser(act, facts, newest)
    if announced and not facts.having(*UNANNOUNCED, ParticipationStatus.FAILED):
        freeze(act, facts, newest)
        return True
    num_cases = sum(row.num_cases or 0 for row in announced)
    if not announced or not expired or lacking(facts.config.quorum, [r.node_id for r in announced], num_cases):
        return False
    if not _extend(act, facts, newest):
        freeze(act, facts, newest)
    return True


def _next_initialiser(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    """The member that was asked for the initial weights is late: it is in the next round, another one builds them."""
    late = facts.initialiser()
    others = [node for node in facts.staying() if node != late]
    if late is None or not others or lacking(facts.config.quorum, others):
        return False
    move_members(act, [facts.participations[late]], ParticipationStatus.EXCLUDED, "late")
    newest.deadline_at = act.now + timedelta(seconds=facts.config.round_deadline_s or 0.0)
    return True


def _extend(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    """One extension while an upload is moving."""
    moving = [
        row.node_id for row in facts.having(*UNANNOUNCED) if is_uploading(facts.nodes[row.node_id], newest, act.now)
    ]
    if newest.extended or not moving:
        return False
    extension_s = min(facts.config.round_deadline_s or MAX_EXTENSION_S, MAX_EXTENSION_S)
    newest.extended = True
    newest.deadline_at = act.now + timedelta(seconds=extension_s)
    act.note("round.extended", newest.run_id, newest.round_number, seconds=extension_s, for_nodes=", ".join(moving))
    return True


def is_uploading(node: NodeRow, newest: RoundRow, now: datetime) -> bool:
    """Its upload for this round has moved lately."""
    return (
        node.phase == NodePhase.UPLOADING
        and (node.run_id, node.round_number) == (newest.run_id, newest.round_number)
        and node.progress_at is not None
        and (now - node.progress_at).total_seconds() <= MOVING_S
    )


def _fuse(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    expired = newest.report_deadline_at is not None and newest.report_deadline_at <= act.now
    expired = expired and facts.status is RunStatus.RUNNING
    if rejected := refusals.rejected_updates(act, facts, newest, expired=expired):
        before = facts.staying()
        for owner, reason in rejected.items():
            if newest.round_number == 0:
                return _fail(act, facts, newest, f"The initial weights of {owner} are not usable ({reason}).")
            drop(act, facts, newest, owner, reason)
        _after_loss(act, facts, newest, before)
        return True
    before = facts.staying()
    if settled := agreement.settle(act, facts, newest, expired=expired):
        _after_loss(act, facts, newest, before)
    if settled or agreement.is_awaited(facts):
        return settled
    in_plan = facts.having(*IN_PLAN)
    owing = [row for row in in_plan if row.reported_at is None]
    if not owing:
        return _judge(act, facts, newest)
    reported = [row for row in in_plan if row.reported_at is not None]
    num_cases = None if newest.round_number == 0 else sum(row.num_cases or 0 for row in reported)
    if not expired or lacking(facts.config.quorum, [row.node_id for row in reported], num_cases):
        return False
    move_members(act, owing, ParticipationStatus.EXCLUDED, "no_report")
    agreement.note_unaudited(act, newest, owing)
    return True


def _judge(act: Act, facts: RunFacts, newest: RoundRow) -> bool:
    before = facts.staying()
    decided = fusion.compare(act, facts, newest)
    if decided:
        _after_loss(act, facts, newest, before)
    return decided


def _fail(act: Act, facts: RunFacts, newest: RoundRow | None, reason: str) -> bool:
    if newest is not None:
        move_round(act, newest, RoundStatus.FAILED, reason=reason)
    return move_run(act, facts.run, RunStatus.FAILED, finished_at=act.now, reason=reason)
