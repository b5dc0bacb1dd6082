"""When the plan freezes, and who is left out by it."""

import pytest

from hsl_model.protocol.config import QuorumConfig
from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import Federation


def announce(federation: Federation, *node_ids: str) -> None:
    for node_id in node_ids:
        site = federation[node_id]
        site.ok(site.announce(site.assignment()))


def test_without_a_deadline_everybody_is_waited_for(federation: Federation) -> None:
    federation.begin().to_round(1)
    announce(federation, "node-a", "node-b")
    federation.alliance.beat(30 * 86400)
    assert federation.round().status == "open"
    announce(federation, "node-c")
    assert federation.round().status == "fusing"


@pytest.mark.parametrize(
    ("quorum", "announced", "freezes"),
    [
        ({"min_nodes": 2}, ("node-a", "node-b"), True),
        ({"min_nodes": 2}, ("node-a",), False),
        ({"min_nodes": 3}, ("node-a", "node-b"), False),
        ({"min_nodes": 1, "min_cases": 180}, ("node-a", "node-b"), True),
        ({"min_nodes": 1, "min_cases": 181}, ("node-a", "node-b"), False),
        ({"min_nodes": 1, "required_nodes": ("node-c",)}, ("node-a", "node-b"), False),
        ({"min_nodes": 1, "required_nodes": ("node-c",)}, ("node-c",), True),
        ({"min_nodes": 1}, (), False),
    ],
)
def test_the_deadline_freezes_exactly_with_quorum(
    federation: Federation, quorum: dict, announced: tuple[str, ...], freezes: bool
) -> None:
    federation.begin(round_deadline_s=600.0, quorum=QuorumConfig(**quorum)).to_round(1)
    announce(federation, *announced)
    federation.alliance.beat(599)
    assert federation.round().status == "open"
    federation.alliance.beat(1)
    assert federation.round().status == ("fusing" if freezes else "open")
    if freezes:
        late = {node_id for node_id, status in federation.statuses().items() if status == "excluded(late)"}
        assert late == set(federation.sites) - set(announced)
    else:
        waiting = federation.round().waiting or ""
        assert all(node_id in waiting for node_id in set(federation.sites) - set(announced))


def test_the_first_announce_after_the_deadline_that_makes_the_quorum_freezes(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    announce(federation, "node-a")
    federation.alliance.beat(10_000)
    announce(federation, "node-c")
    assert federation.round().status == "fusing"
    assert federation.statuses()["node-b"] == "excluded(late)"


@pytest.mark.parametrize("moving_s_ago", [10, 100])
def test_only_an_upload_that_moves_is_waited_for(federation: Federation, moving_s_ago: int) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    announce(federation, "node-a", "node-b")
    site = federation["node-c"]
    wish = site.assignment()
    federation.alliance.clock.advance(600 - moving_s_ago)
    site.uploading(wish, done=10)
    federation.alliance.clock.advance(moving_s_ago - 5)
    site.uploading(wish, done=10)  # alive, but not a byte further
    federation.alliance.beat(5)
    extended = moving_s_ago == 10
    assert federation.round().status == ("open" if extended else "fusing")
    assert ("round.extended" in federation.alliance.event_kinds()) == extended
    if extended:
        site.ok(site.announce(wish))
        assert federation.statuses()["node-c"] == "fusing"


def test_an_upload_of_another_round_is_not_this_ones(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    old = federation["node-c"].assignment()
    federation.to_round(2)
    announce(federation, "node-a", "node-b")
    federation.alliance.clock.advance(590)
    federation["node-c"].uploading(old, done=10)
    federation.alliance.beat(10)
    assert federation.round().status == "fusing"


def test_a_late_node_catches_up_and_is_in_the_next_round(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    announce(federation, "node-a", "node-b")
    late = federation["node-c"]
    wish = late.assignment()
    federation.alliance.beat(600)
    federation.fuse_all()
    federation.to_round(3)
    assert [federation.statuses(n)["node-c"] for n in (1, 2)] == ["excluded(late)", "fused"]
    answer = late.announce(wish).json()  # its announce of round 1 arrives at last
    assert answer == {"participation": "excluded", "reason": "late", "accepted_sha256": None}


def test_a_failed_member_is_waited_for_until_the_deadline(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    site = federation["node-c"]
    wish = site.assignment()
    site.heartbeat(NodePhase.FAILED, wish, failure="binding_missing: no data")
    announce(federation, "node-a", "node-b")
    assert federation.round().status == "open"
    assert "hsl node retry" in (federation.round().waiting or "")
    federation.alliance.beat(600)
    assert federation.statuses()["node-c"] == "failed(binding_missing: no data)"
    site.heartbeat(NodePhase.TRAINING, wish)  # retried, too late for this round
    assert federation.statuses()["node-c"] == "excluded(late)"
    federation.fuse_all()
    assert federation.statuses(2)["node-c"] == "assigned"


def test_a_late_node_of_the_last_round_still_gets_its_model(federation: Federation) -> None:
    """The run is over, but this node has still to fetch and adopt what the others agreed on."""
    federation.begin(round_deadline_s=600.0, num_rounds=1).to_round(1)
    announce(federation, "node-a", "node-b")
    federation.alliance.beat(600)
    federation.fuse_all()
    assert federation.run.status == "completed"
    assert federation["node-a"].desired().assignment is None
    late = federation["node-c"]
    wish = late.assignment()
    assert (wish.run_status, wish.round_status, wish.participation_reason) == ("completed", "completed", "late")
    assert late.desired().finished_runs == ()
    late.ok(late.fusion(wish))
    assert late.desired().assignment is None
    assert late.desired().finished_runs == (federation.run_id,)
