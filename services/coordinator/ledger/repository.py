"""The SQL of the ledger's own row, and of what nodes say while it is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from coordinator.ledger.errors import LedgerHeldError
from coordinator.tables import EventRow, LedgerRow, RecordRow, RoundRow, RunRow, SightingRow
from hsl_model.protocol.ledger import Mark, RoundRecord
from hsl_model.protocol.messages import Seen

_NEWEST_EVENT = select(func.max(EventRow.event_id))
_NEWEST_ROUNDS = (
    select(RunRow.run_id, func.max(RoundRow.round_number))
    .outerjoin(RoundRow, RoundRow.run_id == RunRow.run_id)
    .group_by(RunRow.run_id)
)


@dataclass(frozen=True)
class LedgerFacts:
    """The ledger at one moment; detached."""

    mark: Mark = field(default=Mark("0" * 32, 1, 0))
    held_since: datetime | None = None
    held_because: str | None = None
    sightings: Mapping[str, Seen] = field(default_factory=dict)  # only while held
    answered: frozenset[str] = frozenset()  # nodes that have sent all the records they were asked for

    @property
    def is_held(self) -> bool:
        return self.held_since is not None


def lock(session: Session) -> LedgerRow:
    """Whoever notices a gap and whoever recovers take turns."""
    return session.scalars(select(LedgerRow).with_for_update(), execution_options={"populate_existing": True}).one()


def is_held(session: Session) -> bool:
    return session.scalar(select(LedgerRow.held_since)) is not None


def held_because(session: Session) -> str | None:
    return session.scalar(select(LedgerRow.held_because))


def mark_of(session: Session) -> Mark:
    row = session.execute(select(LedgerRow.ledger_id, LedgerRow.generation)).one()
    return Mark(row.ledger_id, row.generation, session.scalar(_NEWEST_EVENT) or 0)


def facts(session: Session) -> LedgerFacts:
    row = session.execute(
        select(LedgerRow.ledger_id, LedgerRow.generation, LedgerRow.held_since, LedgerRow.held_because)
    ).one()
    mark = Mark(row.ledger_id, row.generation, session.scalar(_NEWEST_EVENT) or 0)
    if row.held_since is None:
        return LedgerFacts(mark)
    found = session.execute(select(SightingRow.node_id, SightingRow.seen, SightingRow.answered_at)).all()
    return LedgerFacts(
        mark,
        row.held_since,
        row.held_because,
        {one.node_id: Seen.model_validate(one.seen) for one in found},
        frozenset(one.node_id for one in found if one.answered_at is not None),
    )


def newest_rounds(session: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """Run -> its newest round, -1 before the first; runs that the ledger does not know are left out."""
    rows = session.execute(_NEWEST_ROUNDS.where(RunRow.run_id.in_(run_ids)))
    return {run_id: -1 if newest is None else newest for run_id, newest in rows}


def records(session: Session, run_id: str, round_number: int) -> list[RoundRecord]:
    query = select(RecordRow.record).where(RecordRow.run_id == run_id, RecordRow.round_number == round_number)
    return [RoundRecord.model_validate(one) for one in session.scalars(query.order_by(RecordRow.node_id))]


def forget(session: Session) -> None:
    """What was said while the ledger was held."""
    session.execute(delete(RecordRow))
    session.execute(delete(SightingRow))


def refuse_while_held(session: Session) -> None:
    """Nothing is opened, resumed or provisioned from a ledger that may have forgotten why it was closed."""
    row = session.execute(select(LedgerRow.held_since, LedgerRow.held_because)).one()
    if row.held_since is not None:
        raise LedgerHeldError(because=row.held_because or "")
