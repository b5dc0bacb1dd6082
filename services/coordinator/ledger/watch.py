"""Noticing that the ledger was restored from an old copy: a node has seen more of it than it has.

    every poll says what its node has seen ──> compared with the snapshot (no query) ──> less: nothing to do
                                                                                     └─> more, or news while held:
    read again, locked ──> held: RUNNING runs are PAUSED(ledger_restored), nothing is opened or provisioned,
                           what each node has seen is kept, whom others know as revoked is suspended

A copy may also say of itself that it is one (`backup.py` writes so), and is then held from its first moment.
"""

from collections.abc import Mapping

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.ledger import repository
from coordinator.ledger.repository import LedgerFacts
from coordinator.rounds.moves import Act, move_run
from coordinator.tables import LedgerRow, NodeRow, RunRow, SightingRow
from hsl_model.protocol.ledger import Mark
from hsl_model.protocol.messages import Seen
from hsl_model.protocol.states import NodeStatus, RunStatus

LEDGER_RESTORED = "ledger_restored"
_log = structlog.get_logger(__name__)


def has_news(facts: LedgerFacts, newest_rounds: Mapping[str, int], node_id: str, seen: Seen) -> bool:
    """Whether it is worth a transaction to look closer. `newest_rounds`: of the runs at hand, others count as news."""
    if seen.ledger_id != facts.mark.ledger_id:
        return False
    if facts.is_held:
        held = facts.sightings.get(node_id)
        return held is None or (held.generation, held.rounds, held.revoked) != (
            seen.generation,
            seen.rounds,
            seen.revoked,
        )
    return _gap(facts.mark, newest_rounds, seen) is not None


def notice(kernel: Kernel, node_id: str, seen: Seen) -> None:
    """Look closer; hold the ledger if it is behind, and keep what this node has seen while it is held."""
    with kernel.transaction() as session:
        row = repository.lock(session)
        act = Act(session, kernel.clock.now(), node_id)
        if row.ledger_id != seen.ledger_id:
            return
        if row.held_since is None:
            mark = repository.mark_of(session)
            gap = _gap(mark, repository.newest_rounds(session, list(seen.rounds)), seen)
            if gap is None:
                return
            _hold(act, row, f"{node_id} {gap}.")
        _keep(act, node_id, seen)


def _gap(mark: Mark, newest_rounds: Mapping[str, int], seen: Seen) -> str | None:
    """By how much a node is ahead, as words behind its name; None when it is not."""
    if seen.generation != mark.generation:
        if seen.generation < mark.generation:  # it has not heard of the recovery yet
            return None
        return f"has seen generation {seen.generation} of the ledger, and this is generation {mark.generation}"
    parts = []
    if seen.event_id > mark.event_id:
        parts.append(f"event {seen.event_id} (the ledger ends with {mark.event_id})")
    for run_id, number in sorted(seen.rounds.items()):
        newest = newest_rounds.get(run_id)
        if newest is None:
            parts.append(f"run {run_id}, which is unknown here")
        elif number > newest:
            parts.append(f"round {number} of {run_id} (here {'none' if newest < 0 else newest})")
    return f"has seen {', '.join(parts)}" if parts else None


def _hold(act: Act, row: LedgerRow, because: str) -> None:
    row.held_since, row.held_because = act.now, because
    events.append(act.session, act.now, "ledger.behind", events.TICK, node_id=act.actor, because=because)
    _log.warning("ledger_behind", because=because)
    pause_runs(act)


def pause_runs(act: Act) -> None:
    """While the ledger is held no run is RUNNING; done twice is done once."""
    running = select(RunRow).where(RunRow.status == RunStatus.RUNNING.value).order_by(RunRow.run_id)
    for run in act.session.scalars(running.with_for_update()).all():
        move_run(act, run, RunStatus.PAUSED, paused_at=act.now, reason=LEDGER_RESTORED)


def pause_if_held(session: Session, act: Act) -> None:
    if repository.is_held(session):
        pause_runs(act)


def _keep(act: Act, node_id: str, seen: Seen) -> None:
    row = act.session.get(SightingRow, node_id, populate_existing=True)
    if row is None:
        row = SightingRow(node_id=node_id)
        act.session.add(row)
    row.seen = seen.model_dump(mode="json")
    act.session.flush()
    known = act.session.scalars(
        select(NodeRow)
        .where(NodeRow.node_id.in_(set(seen.revoked) - {node_id}), NodeRow.suspended_at.is_(None))
        .where(NodeRow.status != NodeStatus.REVOKED.value)
        .order_by(NodeRow.node_id)
        .with_for_update()
    ).all()
    for node in known:
        node.suspended_at, node.hub_cut_at = act.now, None
        events.append(act.session, act.now, "node.suspended", node_id, node_id=node.node_id)
