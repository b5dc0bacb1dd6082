"""Writing to the ledger."""

from datetime import datetime

from sqlalchemy.orm import Session

from coordinator.tables import EventRow
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.views import EventView

ADMIN = "admin"
TICK = "tick"
RECOVERY = "recovery"  # written from what the sites know, after the ledger was restored from a backup

EventValue = str | int | float | bool | None


def append(
    session: Session,
    when: Clock | datetime,
    kind: str,
    actor: str,
    run_id: str | None = None,
    round_number: int | None = None,
    node_id: str | None = None,
    **data: EventValue,
) -> EventRow:
    """Add one event to this transaction: it is there exactly if the change it tells of is.

    `kind` is `<domain>.<what happened>`, e.g. `run.started`; `actor` is `ADMIN`, `TICK` or a node id; `when` may be the
    `now` of a tick, so that all it does carries one time.
    """
    row = EventRow(
        at=when if isinstance(when, datetime) else when.now(),
        kind=kind,
        actor=actor,
        run_id=run_id,
        round_number=round_number,
        node_id=node_id,
        data=dict(data),
    )
    session.add(row)
    return row


def view_of(row: EventRow) -> EventView:
    return EventView(
        event_id=row.event_id,
        at=row.at,
        kind=row.kind,
        actor=row.actor,
        run_id=row.run_id,
        round_number=row.round_number,
        node_id=row.node_id,
        data=row.data,
    )
