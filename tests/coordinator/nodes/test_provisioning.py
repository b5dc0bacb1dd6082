"""The hub follows the tables, however long it was away."""

from coordinator.schedule import HUB_PAUSE_S
from coordinator.tables import NodeRow
from hsl_model.protocol.transport import API
from tests.coordinator.helpers import Alliance


def row_of(alliance: Alliance, node_id: str) -> NodeRow:
    with alliance.kernel.snapshot() as session:
        return session.get_one(NodeRow, node_id)


def test_a_cut_that_the_hub_missed_is_made_up_for(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    alliance.hub.is_down = True
    assert alliance.admin.post(f"{API}/nodes/alpha/revoke").status_code == 200
    assert "alpha" in alliance.hub.keys
    alliance.beat()
    alliance.hub.is_down = False
    alliance.beat(HUB_PAUSE_S)
    assert "alpha" not in alliance.hub.keys
    assert row_of(alliance, "alpha").hub_cut_at == alliance.clock.now()


def test_an_account_that_the_hub_lost_track_of_is_made(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    with alliance.kernel.transaction() as session:
        session.get_one(NodeRow, "alpha").hub_ready_at = None
    expected = alliance.hub.keys.pop("alpha")
    alliance.beat()
    assert alliance.hub.keys == {"alpha": expected}
    assert row_of(alliance, "alpha").hub_ready_at == alliance.clock.now()


def test_a_hub_that_has_all_is_left_alone(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    alliance.enrol("beta")
    alliance.admin.post(f"{API}/nodes/beta/revoke")
    alliance.hub.calls.clear()
    for _ in range(3):
        alliance.beat(HUB_PAUSE_S)
    assert alliance.hub.calls == []


def test_a_hub_that_is_down_is_not_asked_with_every_tick(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    alliance.hub.is_down = True
    alliance.admin.post(f"{API}/nodes/alpha/revoke")
    alliance.beat()
    alliance.hub.is_down = False
    alliance.beat(HUB_PAUSE_S - 1)
    assert "alpha" in alliance.hub.keys, "not yet"
    alliance.beat(1)
    assert "alpha" not in alliance.hub.keys
