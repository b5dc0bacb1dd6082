"""The hub follows the tables, however long it was away."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from coordinator.app import create_app
from coordinator.hub.admin import Drift, DriftKind, HubAdmin, RosterAccount
from coordinator.hub.embedded import EmbeddedHubAdmin
from coordinator.hub.sftpgo import SftpgoHubAdmin
from coordinator.schedule import HUB_PAUSE_S, SECOND_LOOK_S
from coordinator.tables import NodeRow
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.transport import API
from tests.coordinator.conftest import open_alliance, settings_for
from tests.coordinator.fakes import MemoryHub
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


@dataclass
class ComparingHub(MemoryHub):
    """Finds what it is told to find, and remembers the ledgers it was shown."""

    found: tuple[Drift, ...] = ()
    rosters: list[Mapping[str, RosterAccount]] = field(default_factory=list)

    def drift(self, roster: Callable[[], Mapping[str, RosterAccount]]) -> tuple[Drift, ...]:
        self._answer("drift")
        self.rosters.append(roster())
        return self.found


def test_at_its_start_the_coordinator_looks_twice_and_writes_down_what_differs(
    sqlite_url: str, clock: ManualClock
) -> None:
    """Who is cut is told at once; the rest when it is still so after half a minute."""
    hub = ComparingHub(found=(Drift("alpha", DriftKind.KEY), Drift("x" * 200, DriftKind.UNKNOWN)))
    with open_alliance(sqlite_url, clock, hub) as alliance:
        alliance.enrol("alpha")
        alliance.add("beta")
        alliance.enrol("gamma")
        alliance.admin.post(f"{API}/nodes/gamma/revoke")
        hub.is_down = True
        alliance.beat()
        assert "hub.drift" not in alliance.event_kinds()
        hub.is_down = False
        alliance.beat(HUB_PAUSE_S)
        assert alliance.event_kinds().count("hub.drift") == 1, "the one that was cut"
        hub.found = hub.found[:1]
        alliance.beat(SECOND_LOOK_S - 1)
        assert len(hub.rosters) == 1, "not yet"
        for _ in range(3):
            alliance.beat(SECOND_LOOK_S)
        first, roster = hub.rosters
        assert first == roster
        assert {name: (entry.ssh_public_key is not None, entry.is_revoked) for name, entry in roster.items()} == {
            "alpha": (True, False),
            "beta": (False, False),
            "gamma": (True, True),
        }
        events = alliance.admin.get(f"{API}/events", limit=500, kind="hub.drift").json()["items"]
        assert [(event["node_id"], event["data"]["what"], event["data"]["cut"]) for event in events] == [
            (None, "unknown", True),
            ("alpha", "key", False),
        ]
        assert events[0]["data"]["username"] == "x" * 200
        assert all(event["data"]["advice"] for event in events)


def test_an_enrolment_that_was_under_way_is_no_drift(sqlite_url: str, clock: ManualClock) -> None:
    """The hub has the key a moment before the ledger does."""
    hub = ComparingHub(found=(Drift("alpha", DriftKind.KEY),))
    with open_alliance(sqlite_url, clock, hub) as alliance:
        alliance.enrol("alpha")
        alliance.beat()
        hub.found = ()
        for _ in range(3):
            alliance.beat(SECOND_LOOK_S)
        assert len(hub.rosters) == 2
        assert "hub.drift" not in alliance.event_kinds()


@pytest.mark.parametrize(("kind", "admin"), [("embedded", EmbeddedHubAdmin), ("sftpgo", SftpgoHubAdmin)])
def test_the_hub_of_the_settings_is_the_one(sqlite_url: str, kind: str, admin: type[HubAdmin]) -> None:
    settings = settings_for(sqlite_url).model_copy(
        update={"hub_kind": kind, "hub_quota_bytes": 5, "hub_allowed_addresses": {"site-1": ("192.0.2.0/24",)}}
    )
    kernel = create_app(settings).state.kernel
    assert type(kernel.hub) is admin
    if isinstance(kernel.hub, SftpgoHubAdmin):
        assert (kernel.hub._limits.quota_bytes, kernel.hub._limits.allowed_addresses) == (
            5,
            {"site-1": ("192.0.2.0/24",)},
        )
    kernel.close()
