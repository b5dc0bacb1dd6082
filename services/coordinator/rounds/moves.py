"""Every change of a status: a guarded UPDATE and one event, in the transaction of whoever acts (rule 2).

Events are named `<what>.<new status>`, so the ledger alone tells every status there ever was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kit.guard import guarded_update
from coordinator.tables import MemberRow, ParticipationRow, RoundRow, RunRow
from hsl_model.protocol.errors import IllegalTransitionError
from hsl_model.protocol.states import (
    MEMBERSHIP_TRANSITIONS,
    PARTICIPATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    RUN_TRANSITIONS,
    MembershipStatus,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
    check_transition,
    sources_of,
)


@dataclass(frozen=True)
class Act:
    """Who changes something, and when; what every change and its event carry."""

    session: Session
    now: datetime
    actor: str  # "admin", "tick" or a node id

    def note(
        self,
        kind: str,
        run_id: str,
        round_number: int | None = None,
        node_id: str | None = None,
        **data: events.EventValue,
    ) -> None:
        events.append(self.session, self.now, kind, self.actor, run_id, round_number, node_id, **data)


def move_run(act: Act, run: RunRow, target: RunStatus, **values: object) -> bool:
    """False when the run was in no status from which it can go to `target`."""
    source, allowed = run.status, sources_of(RUN_TRANSITIONS, target)
    if not guarded_update(act.session, RunRow, run.run_id, allowed, target, **values):
        return False
    act.note(f"run.{target}", run.run_id, source=source, reason=run.reason)
    return True


def move_round(act: Act, row: RoundRow, target: RoundStatus, **values: object) -> None:
    source, key = row.status, (row.run_id, row.round_number)
    allowed = sources_of(ROUND_TRANSITIONS, target)
    if not guarded_update(act.session, RoundRow, key, allowed, target, **values):
        raise IllegalTransitionError(source=source, target=target.value)
    act.note(f"round.{target}", row.run_id, row.round_number, source=source, reason=row.reason)


def move_members(
    act: Act,
    rows: Sequence[ParticipationRow],
    target: ParticipationStatus,
    reason: str | None = None,
    **values: object,
) -> None:
    """Move participations of one round together: one UPDATE, one event each."""
    if not rows:
        return
    sources = [row.status for row in rows]
    for source in sources:
        check_transition(PARTICIPATION_TRANSITIONS, ParticipationStatus(source), target)
    moved = act.session.scalars(
        update(ParticipationRow)
        .where(
            ParticipationRow.run_id == rows[0].run_id,
            ParticipationRow.round_number == rows[0].round_number,
            ParticipationRow.node_id.in_([row.node_id for row in rows]),
            ParticipationRow.status.in_([s.value for s in sources_of(PARTICIPATION_TRANSITIONS, target)]),
        )
        .values(status=target.value, reason=reason, **values)
        .returning(ParticipationRow.node_id)
    ).all()
    if len(moved) != len(rows):
        raise IllegalTransitionError(source=", ".join(sorted(set(sources))), target=target.value)
    for row, source in zip(rows, sources, strict=True):
        act.note(f"participation.{target}", row.run_id, row.round_number, row.node_id, source=source, reason=reason)


def move_membership(act: Act, row: MemberRow, target: MembershipStatus, **values: object) -> bool:
    source, key = row.status, (row.run_id, row.node_id)
    allowed = sources_of(MEMBERSHIP_TRANSITIONS, target)
    if not guarded_update(act.session, MemberRow, key, allowed, target, answered_at=act.now, **values):
        return False
    act.note(f"member.{target}", row.run_id, node_id=row.node_id, source=source)
    return True
