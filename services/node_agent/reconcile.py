"""What to do next: a pure function of the journal's row and what the coordinator wants. No I/O, no clock.

    desired state ─┐
    journal row  ──┴─> decide() ─> Proceed         call the function of the row's phase
                                   Hold(reason)    nothing to do until something changes
                                   Move(phase, …)  write this row first, then decide again

    the coordinator's ledger was restored from a backup       -> Hold, until it is recovered
    it was recovered, and may know less of this row's round   -> Move(ANNOUNCING | DOWNLOADING | as it was, IDLE)
    the run is over, or this node left it, or was revoked     -> Move(IDLE, nothing)
    another run or a later round                              -> Move(TRAINING | CHECKPOINTING | WAITING, its facts)
    the plan froze without this node                          -> Move(DOWNLOADING, late)
    an update was accepted that this node does not remember   -> Move(WAITING)
    the plan froze, a newer version of it, or fuse once more  -> Move(DOWNLOADING, new plan)
    paused (run or site) while TRAINING                       -> Hold; transfers and fusions go on
    FAILED, and something else is wanted than when it failed  -> Move(the phase that failed)
    no answer yet since the start                             -> Proceed with what the journal knows

A desired state may be a little older than what this node has just reported (the poll was under way); nothing here may
depend on seeing one's own report in it.
"""

from dataclasses import dataclass

from hsl_model.protocol.messages import Assignment, DesiredState
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus
from node_agent.facts import RoundFacts
from node_agent.journal import PhaseRow

CONTRIBUTING = frozenset({NodePhase.TRAINING, NodePhase.CHECKPOINTING, NodePhase.UPLOADING, NodePhase.ANNOUNCING})
NO_WORK = "The coordinator has no round for this node now."


@dataclass(frozen=True)
class Proceed:
    pass


@dataclass(frozen=True)
class Hold:
    reason: str


@dataclass(frozen=True)
class Move:
    phase: NodePhase
    facts: RoundFacts | None


Decision = Proceed | Hold | Move


@dataclass(frozen=True)
class Wish:
    """What is wanted of this node, by the coordinator and by its own admin."""

    node_id: str
    desired: DesiredState | None
    paused_by_site: bool = False
    revoked: bool = False


def situation(desired: DesiredState | None) -> str | None:
    """What a FAILED phase failed at. Only a change of this is a reason to try again unasked."""
    assignment = desired.assignment if desired else None
    if assignment is None:
        return None
    plan_version = assignment.plan.version if assignment.plan else 0
    parts = (assignment.run_id, assignment.round_number, assignment.run_status, plan_version, assignment.redo_fusion)
    return "/".join(map(str, parts))


def decide(row: PhaseRow, wish: Wish) -> Decision:
    if wish.desired is not None and wish.desired.recovery is not None and not wish.revoked:
        return Hold(wish.desired.recovery.sentence)
    if _must_leave(row, wish):
        return Move(NodePhase.IDLE, None)
    if wish.revoked:
        return Hold("This node was revoked; the alliance's coordinator can enrol it again.")
    return _without_coordinator(row) if wish.desired is None else _as_desired(row, wish.desired, wish)


def _as_desired(row: PhaseRow, desired: DesiredState, wish: Wish) -> Decision:
    assignment = desired.assignment
    if assignment is None:
        return Hold(NO_WORK)
    if row.facts is not None and row.facts.generation < desired.generation:
        return _recovered(row, row.facts, assignment, desired)
    if row.facts is None or row.facts.key != (assignment.run_id, assignment.round_number):
        return _other_round(row, assignment, wish)
    if row.phase is NodePhase.FAILED:
        return _failed(row, wish)
    return _same_round(row, row.facts, assignment, wish)


def _recovered(row: PhaseRow, facts: RoundFacts, assignment: Assignment, desired: DesiredState) -> Decision:
    """The first look at a recovered ledger. What it knows is kept; what it does not know is told again, not redone."""
    follows = (assignment.run_id, assignment.round_number + 1) == facts.key
    if follows and assignment.round_status is RoundStatus.COMPLETED and not _is_over(assignment):
        return Hold(assignment.waiting or f"Waits for round {facts.round_number} to be opened again.")
    if facts.key != (assignment.run_id, assignment.round_number) or _starts_elsewhere(facts, assignment):
        return Move(NodePhase.IDLE, None)
    phase = (row.failed_phase or NodePhase.IDLE) if row.phase is NodePhase.FAILED else row.phase
    kept = facts.model_copy(update={"generation": desired.generation})
    if phase in CONTRIBUTING or (facts.planned is not None and facts.planned.plan == assignment.plan):
        return Move(phase, kept)
    if assignment.plan is not None and row.phase is not NodePhase.FAILED:
        return Move(NodePhase.DOWNLOADING, kept.with_plan(assignment.plan, desired.roster, assignment.redo_fusion))
    if facts.signed is not None and assignment.round_status is RoundStatus.OPEN:
        return Move(NodePhase.ANNOUNCING, facts.unannounced(desired.generation))
    return Move(NodePhase.IDLE, None)


def _starts_elsewhere(facts: RoundFacts, assignment: Assignment) -> bool:
    """The ledger has another model of the round before than the one this round was begun with."""
    held, wanted = (found and found.file_sha256 for found in (facts.start, assignment.start))
    return held != wanted


def _must_leave(row: PhaseRow, wish: Wish) -> bool:
    """The row speaks of work that nobody wants any more."""
    if row.facts is None:
        return False
    if wish.revoked:
        return True
    if wish.desired is None:
        return False
    assignment = wish.desired.assignment
    if row.facts.run_id in wish.desired.finished_runs:
        return True
    if assignment is None:
        return row.phase is not NodePhase.IDLE
    return assignment.run_id == row.facts.run_id and assignment.run_status in (RunStatus.STOPPED, RunStatus.FAILED)


def _without_coordinator(row: PhaseRow) -> Decision:
    """Nothing was heard since the start: go on with what the journal knows."""
    if row.phase is NodePhase.IDLE:
        return Hold("The coordinator has not answered yet.")
    return Hold(_failure_sentence(row)) if row.phase is NodePhase.FAILED else Proceed()


def _failed(row: PhaseRow, wish: Wish) -> Decision:
    if row.failed_phase is None or situation(wish.desired) == row.failed_situation:
        return Hold(_failure_sentence(row))
    return Move(row.failed_phase, row.facts)


def _failure_sentence(row: PhaseRow) -> str:
    return row.failure.sentence if row.failure else "This phase failed; the agent's log has the details."


def _other_round(row: PhaseRow, assignment: Assignment, wish: Wish) -> Decision:
    if row.facts and row.facts.run_id == assignment.run_id and row.facts.round_number > assignment.round_number:
        return Hold("The coordinator speaks of an earlier round than this node has; its next answer will tell.")
    if row.phase is not NodePhase.IDLE:
        return Move(NodePhase.IDLE, None)
    return _begin(assignment, wish)


def _is_over(assignment: Assignment) -> bool:
    return assignment.run_status not in (RunStatus.RUNNING, RunStatus.PAUSED)


def _begin(assignment: Assignment, wish: Wish) -> Decision:
    """Take up a round. Whoever has nothing (more) to contribute goes straight to WAITING."""
    if _is_over(assignment) and (assignment.plan is None or assignment.run_status is not RunStatus.COMPLETED):
        return Hold(NO_WORK)  # a completed run still lets its late members fuse the last plan
    facts = RoundFacts(
        run_id=assignment.run_id,
        round_number=assignment.round_number,
        generation=wish.desired.generation if wish.desired else 1,
        config=assignment.config,
        is_initialiser=assignment.is_initialiser,
        start=assignment.start,
        initial=assignment.initial,
        accepted_sha256=assignment.accepted_sha256,
        left_out=_left_out(assignment),
    )
    if assignment.plan is not None or assignment.accepted_sha256 is not None or facts.left_out is not None:
        return Move(NodePhase.WAITING, facts)
    if assignment.round_status is not RoundStatus.OPEN:
        return Hold(assignment.waiting or NO_WORK)
    if assignment.round_number == 0:
        return Move(NodePhase.CHECKPOINTING if facts.is_initialiser else NodePhase.WAITING, facts)
    return _paused(assignment, wish) or Move(NodePhase.TRAINING, facts)


def _same_round(row: PhaseRow, facts: RoundFacts, assignment: Assignment, wish: Wish) -> Decision:
    if row.phase in CONTRIBUTING:
        return _while_contributing(row, facts, assignment, wish)
    if _plan_changed(facts, assignment):
        return _take_plan(facts, assignment, wish)
    if row.phase is NodePhase.WAITING and _became_initialiser(facts, assignment):
        return Move(NodePhase.IDLE, None)
    if row.phase is NodePhase.IDLE:
        return Hold(assignment.waiting or f"Round {facts.round_number} is adopted here; others still work on it.")
    return Proceed()


def _became_initialiser(facts: RoundFacts, assignment: Assignment) -> bool:
    """The first member left before it announced: round 0 begins anew with this node."""
    return assignment.is_initialiser and not facts.is_initialiser and assignment.accepted_sha256 is None


def _while_contributing(row: PhaseRow, facts: RoundFacts, assignment: Assignment, wish: Wish) -> Decision:
    own = None if facts.update is None else facts.update.sha256
    accepted = assignment.accepted_sha256
    if accepted is not None and accepted != own:
        return _wait_for_plan(row, facts.model_copy(update={"accepted_sha256": accepted, "signed": None}))
    if accepted is None and (left_out := _left_out(assignment)) is not None:
        late = facts.model_copy(update={"left_out": left_out})
        return _take_plan(late, assignment, wish) if assignment.plan else _wait_for_plan(row, late)
    if row.phase is NodePhase.TRAINING:
        return _paused(assignment, wish) or Proceed()
    return Proceed()


def _wait_for_plan(row: PhaseRow, facts: RoundFacts) -> Decision:
    """Nothing to contribute any more. Only ANNOUNCING may move to WAITING directly; the others go by IDLE."""
    if row.phase is NodePhase.ANNOUNCING:
        return Move(NodePhase.WAITING, facts)
    return Move(NodePhase.IDLE, None)


def _plan_changed(facts: RoundFacts, assignment: Assignment) -> bool:
    if assignment.plan is None:
        return False
    if facts.planned is None:
        return True
    held = (facts.planned.plan.version, facts.planned.redo)
    return (assignment.plan.version, assignment.redo_fusion) > held


def _take_plan(facts: RoundFacts, assignment: Assignment, wish: Wish) -> Decision:
    if assignment.plan is None or wish.desired is None:
        return Proceed()
    return Move(NodePhase.DOWNLOADING, facts.with_plan(assignment.plan, wish.desired.roster, assignment.redo_fusion))


def _left_out(assignment: Assignment) -> str | None:
    """Why this node's update will not be in the round; None while it may still be."""
    if assignment.participation is ParticipationStatus.EXCLUDED:
        return assignment.participation_reason or "excluded"
    if assignment.plan is not None and assignment.accepted_sha256 is None:
        return "late"
    return None


def _paused(assignment: Assignment, wish: Wish) -> Hold | None:
    if assignment.run_status is RunStatus.PAUSED:
        return Hold(assignment.waiting or "The coordinator paused the run; training stands still.")
    if wish.paused_by_site:
        return Hold("This site paused training; `hsl node resume` lets it go on.")
    return None
