"""What a heartbeat reads: two words of two rows, twenty seconds after twenty seconds, from every node."""

from sqlalchemy import and_, bindparam, select
from sqlalchemy.orm import Session

from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.states import ParticipationStatus, RoundStatus

_STATUSES = (
    select(RoundRow.status, ParticipationRow.status)
    .join(
        ParticipationRow,
        and_(
            ParticipationRow.run_id == RoundRow.run_id,
            ParticipationRow.round_number == RoundRow.round_number,
            ParticipationRow.node_id == bindparam("node_id"),
        ),
    )
    .where(RoundRow.run_id == bindparam("run_id"), RoundRow.round_number == bindparam("round_number"))
)


def statuses(session: Session, key: tuple[str, int, str]) -> tuple[RoundStatus, ParticipationStatus] | None:
    """Of a round and of one node's part in it; None where it has none."""
    found = session.execute(_STATUSES, dict(zip(("run_id", "round_number", "node_id"), key, strict=True))).one_or_none()
    return None if found is None else (RoundStatus(found[0]), ParticipationStatus(found[1]))
