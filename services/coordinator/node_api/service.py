"""Heartbeats: what a node's agent does now. Facts of the node, and at most the participation of its open round."""

from coordinator.node_api import repository
from coordinator.rounds.facts import UNANNOUNCED
from coordinator.rounds.moves import Act, move_members
from coordinator.rounds.repository import lock_round
from coordinator.tables import NodeRow, ParticipationRow
from hsl_model.protocol.messages import Heartbeat
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus

WORKING = {
    NodePhase.TRAINING: ParticipationStatus.TRAINING,
    NodePhase.CHECKPOINTING: ParticipationStatus.TRAINING,
    NodePhase.UPLOADING: ParticipationStatus.UPLOADING,
    NodePhase.ANNOUNCING: ParticipationStatus.UPLOADING,
}


def heartbeat(act: Act, node: NodeRow, said: Heartbeat) -> None:
    if _has_grown(node, said):
        node.progress_at = act.now
    node.phase = said.phase.value
    node.run_id, node.round_number = said.run_id, said.round_number
    node.progress = None if said.progress is None else said.progress.model_dump(mode="json")
    node.waiting, node.failure, node.paused_by_site = said.waiting, said.failure, said.paused_by_site
    node.last_seen_at = act.now
    act.session.flush()
    if said.run_id is not None and said.round_number is not None:
        _follow(act, said.run_id, said.round_number, said)


def _has_grown(node: NodeRow, said: Heartbeat) -> bool:
    """Something moved since the last heartbeat: another phase or round, another try, or more done."""
    if said.progress is None:
        return False
    held = node.progress
    if held is None or (node.phase, node.run_id, node.round_number) != (said.phase, said.run_id, said.round_number):
        return True
    same_try = (held["unit"], held["attempt"]) == (said.progress.unit, said.progress.attempt)
    return not same_try or said.progress.done > int(held["done"])


def _follow(act: Act, run_id: str, round_number: int, said: Heartbeat) -> None:
    """Let the participation follow the agent's phase, while the round goes on and no update of it was accepted."""
    key = (run_id, round_number, act.actor)
    statuses = repository.statuses(act.session, key)
    if statuses is None or _target(*statuses, round_number, said) is None:
        return
    newest = lock_round(act.session, run_id, round_number)
    row = act.session.get(ParticipationRow, key, populate_existing=True)
    if newest is None or row is None:
        return
    target = _target(RoundStatus(newest.status), ParticipationStatus(row.status), round_number, said)
    if target is None:
        return
    if row.status == ParticipationStatus.FAILED:  # its site has retried
        move_members(act, [row], ParticipationStatus.ASSIGNED)
        if newest.status == RoundStatus.FUSING:
            target = ParticipationStatus.EXCLUDED if round_number > 0 else ParticipationStatus.FUSING
    if row.status != target:
        move_members(act, [row], target, _reason(target, said))


def _reason(target: ParticipationStatus, said: Heartbeat) -> str | None:
    if target is ParticipationStatus.EXCLUDED:
        return "late"
    return (said.failure or "failed") if target is ParticipationStatus.FAILED else None


def _target(
    of_round: RoundStatus, status: ParticipationStatus, round_number: int, said: Heartbeat
) -> ParticipationStatus | None:
    """Where the participation should go; None when it is right or not for a heartbeat to move."""
    if of_round not in (RoundStatus.OPEN, RoundStatus.FUSING):
        return None
    if said.phase is NodePhase.FAILED:
        return ParticipationStatus.FAILED if status in UNANNOUNCED else None
    if status is not ParticipationStatus.FAILED and status not in UNANNOUNCED:
        return None
    # In round 0 only one member has something to make, and nobody waits for the others.
    wanted = WORKING.get(said.phase) if round_number > 0 else None
    target = wanted or (ParticipationStatus.ASSIGNED if status is ParticipationStatus.FAILED else None)
    return None if target is status else target
