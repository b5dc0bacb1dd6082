from sqlalchemy import Select, select

from coordinator.tables import EventRow


def listing(run_id: str | None, node_id: str | None, kind: str | None, after: int) -> Select[EventRow]:
    query = select(EventRow).where(EventRow.event_id > after).order_by(EventRow.event_id)
    for column, value in ((EventRow.run_id, run_id), (EventRow.node_id, node_id), (EventRow.kind, kind)):
        if value is not None:
            query = query.where(column == value)
    return query
