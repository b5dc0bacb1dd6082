"""What the coordinator deletes from the hub, and what it never touches."""

from dataclasses import dataclass, field

import pytest

from coordinator.hub.admin import HubFile
from coordinator.schedule import HUB_PAUSE_S, TIDY_EVERY_S
from hsl_model.protocol.paths import manifest_path
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, enrolled, sha


@dataclass
class StockedHub(MemoryHub):
    """With files, by node."""

    files: dict[str, set[str]] = field(default_factory=dict)

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        self._answer("list", node_id)
        return tuple(HubFile(name, 1000) for name in sorted(self.files.get(node_id, ())))

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        super().release(node_id, names)
        self.files[node_id] -= set(names)


@pytest.fixture
def hub() -> StockedHub:
    return StockedHub()


@pytest.fixture
def federation(sqlite_alliance: Alliance, hub: StockedHub) -> Federation:
    """In round 5, with everything that was ever announced or fused still on the hub."""
    made = enrolled(sqlite_alliance).begin(num_rounds=9).to_round(5)
    for node_id in made.sites:
        hub.files[node_id] = {name for number in range(6) for name in of_round(made, number, node_id)}
    return made


def of_round(federation: Federation, number: int, node_id: str) -> tuple[str, str, str]:
    """Update, manifest and fused model of a round, as they are called in a node's folder."""
    update = sha("update", federation.run_id, number, node_id)
    manifest = manifest_path(node_id, federation.run_id, number, update).rpartition("/")[2]
    fused = (federation.round(number).fused_file_sha256 if number < 5 else None) or sha("not fused yet")
    return f"{update}.safetensors", manifest, f"{fused}.safetensors"


def tidied(federation: Federation, hub: StockedHub) -> dict[str, set[str]]:
    """Files that go when the time has come."""
    before = {node_id: set(names) for node_id, names in hub.files.items()}
    federation.alliance.beat(TIDY_EVERY_S)
    for _ in before:
        federation.alliance.beat(HUB_PAUSE_S)
    return {node_id: gone for node_id, names in before.items() if (gone := names - hub.files[node_id])}


def test_released_rounds_go_and_the_newest_best_and_initial_models_stay(
    federation: Federation, hub: StockedHub
) -> None:
    best, gone = federation.run.best_round, tidied(federation, hub)
    assert best is not None
    assert set(gone) == set(federation.sites)
    for node_id, names in gone.items():
        for number in range(6):
            update, manifest, fused = of_round(federation, number, node_id)
            is_over = number < 4  # updates of the round before may still be fused by somebody late
            assert (manifest in names) == is_over, number
            assert (fused in names) == (is_over and number not in (0, best)), number
            if number > 0:
                assert (update in names) == is_over, number
    assert federation.alliance.event_kinds(node_id="node-a").count("hub.released") == 1
    assert tidied(federation, hub) == {}


def test_nothing_is_asked_of_the_hub_before_its_time(federation: Federation, hub: StockedHub) -> None:
    hub.calls.clear()
    for _ in range(3):
        federation.alliance.beat(HUB_PAUSE_S)
    assert hub.calls == []


def test_a_file_that_somebody_misses_stays(federation: Federation, hub: StockedHub) -> None:
    update, _, _ = of_round(federation, 2, "node-a")
    federation["node-b"].desired(missing=(update.removesuffix(".safetensors"),))
    assert update not in tidied(federation, hub)["node-a"]
    federation["node-b"].desired()
    assert tidied(federation, hub) == {"node-a": {update}}


def test_what_was_published_and_then_released_can_be_published_again(federation: Federation, hub: StockedHub) -> None:
    _, _, fused = of_round(federation, 2, "node-a")
    digest = fused.removesuffix(".safetensors")
    assert federation["node-a"].published(federation.run_id, digest).is_success
    assert fused in tidied(federation, hub)["node-a"]
    federation["node-b"].desired(missing=(digest,))
    federation.alliance.clock.advance(1)
    asked = {node_id: [one.file_sha256 for one in site.desired().publish] for node_id, site in federation.sites.items()}
    assert digest in asked["node-a"] + asked["node-c"]


def test_files_of_fusers_stay_while_they_are_needed_and_go_with_their_round(
    sqlite_alliance: Alliance, hub: StockedHub
) -> None:
    """Also the file of a plan that was superseded, and one that deviated: nobody else's digest knows them."""
    names = ("node-a", "node-b", "node-c", "node-d")
    made = enrolled(sqlite_alliance, names).begin(nodes=names, fusers=2, num_rounds=9).to_fusing(1)
    plan = made.round(1).plan
    assert plan is not None
    deviating, right = (made[node_id] for node_id in plan.fusers)
    deviating.fuse(deviating.assignment(), file_sha256=sha("deviating"))
    right.fuse(right.assignment())
    made[plan.audit or ""].fuse(made[plan.audit or ""].assignment())
    deviating.fuse(deviating.assignment())
    made.alliance.clock.advance(1)  # the next round opens later than this one's files came
    made.fuse_all()
    fused = f"{made.round(1).fused_file_sha256}.safetensors"
    strange = f"{sha('deviating')}.safetensors"
    hub.files = {deviating.node_id: {fused, strange}, right.node_id: {fused}}
    assert tidied(made, hub) == {}  # round 2 starts from it
    made.play_round(auc=0.9)
    assert made.run.best_round == 2  # or round 1's would stay for good
    assert tidied(made, hub) == {deviating.node_id: {fused, strange}, right.node_id: {fused}}


STRANGERS = (f"{'ab' * 32}.part", f"{'cd' * 32}.safetensors", f"run-of-nobody.round-0001.{'ef' * 32}.json")


def test_what_an_enrolled_node_is_about_to_announce_stays(federation: Federation, hub: StockedHub) -> None:
    hub.files["node-a"] = {*STRANGERS, "notes.txt"}
    assert tidied(federation, hub).get("node-a") is None


def test_parts_and_strangers_of_a_revoked_node_go_once_it_is_cut(federation: Federation, hub: StockedHub) -> None:
    needed, _, _ = of_round(federation, 5, "node-a")
    federation["node-a"].announce(federation["node-a"].assignment())
    hub.files["node-a"] = {*STRANGERS, "notes.txt", needed}
    hub.files["node-b"] = {STRANGERS[0]}
    hub.is_down = True  # revoked, and not cut yet: it may still be writing
    federation.revoke("node-a")
    assert tidied(federation, hub) == {}
    hub.is_down = False
    federation.alliance.beat(HUB_PAUSE_S)
    assert "node-a" not in hub.keys
    assert tidied(federation, hub) == {"node-a": set(STRANGERS)}


def test_a_hub_that_is_down_delays_tidying_only(federation: Federation, hub: StockedHub) -> None:
    hub.is_down = True
    assert tidied(federation, hub) == {}
    hub.is_down = False
    for _ in hub.files:
        federation.alliance.beat(HUB_PAUSE_S)
    assert of_round(federation, 2, "node-a")[0] not in hub.files["node-a"]


def test_a_file_of_two_runs_goes_with_the_last(federation: Federation, hub: StockedHub) -> None:
    """Both runs begin with the same initial weights; the second still needs them."""
    first = federation.run_id
    update = of_round(federation, 2, "node-a")[0]
    federation.move("stop")
    federation.begin(num_rounds=9)
    initial = {"update_sha256": update.removesuffix(".safetensors")}
    wish = federation["node-a"].assignment()
    assert federation["node-a"].announce(wish, **initial).is_success
    federation.run_id = first
    assert update not in tidied(federation, hub).get("node-a", set())
