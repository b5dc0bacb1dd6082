"""The ledger: one row for each change, read in order and by filter."""

from coordinator.events import service as events
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import EventView, Page
from tests.coordinator.helpers import Alliance

EVENTS = f"{API}/events"


def read(alliance: Alliance, **query: object) -> list[EventView]:
    return list(Page[EventView].model_validate_json(alliance.admin.get(EVENTS, **query).content).items)


def test_an_event_carries_what_happened(alliance: Alliance) -> None:
    with alliance.kernel.transaction() as session:
        events.append(
            session, alliance.clock, "round.opened", events.TICK, "run-1", 3, "alpha", num_members=4, why=None
        )
    (found,) = read(alliance)
    assert (found.kind, found.actor, found.run_id, found.round_number) == ("round.opened", "tick", "run-1", 3)
    assert (found.node_id, found.at) == ("alpha", alliance.clock.now())
    assert found.data == {"num_members": 4, "why": None}


def test_events_are_read_in_order_by_filter_and_from_where_one_left_off(alliance: Alliance) -> None:
    with alliance.kernel.transaction() as session:
        for number in range(6):
            run_id, node_id = f"run-{number % 2}", f"node-{number % 3}"
            events.append(session, alliance.clock.now(), f"test.kind-{number % 2}", events.ADMIN, run_id, None, node_id)
    ids = [event.event_id for event in read(alliance)]
    assert ids == sorted(ids)
    assert len(ids) == 6
    assert [event.event_id for event in read(alliance, run_id="run-1")] == ids[1::2]
    assert [event.event_id for event in read(alliance, node_id="node-0")] == ids[::3]
    assert [event.event_id for event in read(alliance, kind="test.kind-0", node_id="node-0")] == ids[:1]
    assert [event.event_id for event in read(alliance, after=ids[3])] == ids[4:]


def test_an_event_of_a_transaction_that_failed_does_not_exist(alliance: Alliance) -> None:
    class Oops(Exception):
        pass

    try:
        with alliance.kernel.transaction() as session:
            events.append(session, alliance.clock, "test.lost", events.ADMIN)
            session.flush()
            raise Oops
    except Oops:
        pass
    assert read(alliance) == []
