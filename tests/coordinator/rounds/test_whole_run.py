"""Whole runs, behind HTTP and on both databases: from the draft to the best round."""

import pytest

from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, Site, enrolled


@pytest.fixture
def federation(alliance: Alliance) -> Federation:
    return enrolled(alliance)


def test_three_sites_complete_three_rounds(federation: Federation) -> None:
    federation.begin()
    for auc in (0.5, 0.7, 0.9, 0.8):
        federation.play_round(auc)
    run = federation.run
    assert (run.status, run.round_number, run.best_round) == ("completed", 3, 2)
    assert run.best_mean_auc == 0.9
    assert run.reason == "reached its limit of 3 rounds"
    for round_number in range(4):
        found = federation.round(round_number)
        assert found.status == "completed"
        assert {one.fused_digest for one in found.participations} == {found.fused_digest}
        assert set(federation.statuses(round_number).values()) == {"fused"}
    for site in federation.sites.values():
        wish = site.desired()
        assert wish.assignment is None
        assert wish.finished_runs == (federation.run_id,)


def test_two_of_four_sites_fuse_for_all(alliance: Alliance) -> None:
    names = ("node-a", "node-b", "node-c", "node-d")
    federation = enrolled(alliance, names).begin(nodes=names, fusers=2, num_rounds=2, report_deadline_s=300.0)
    federation.to_fusing(1)
    late = federation["node-c"]  # node-c and node-d have their turn
    wish = late.assignment()
    assert wish.plan is not None
    assert wish.plan.fusers == ("node-c", "node-d")
    federation["node-d"].fuse(federation["node-d"].assignment())
    alliance.beat(300)
    assert late.assignment().plan.replaced == ("node-c",)  # type: ignore[union-attr]
    federation.fuse_all()
    assert set(federation.statuses(1).values()) == {"fused"}
    federation.play_round()
    assert federation.run.status == "completed"


def test_a_site_that_accepts_while_the_run_goes_on_is_in_the_next_round(federation: Federation) -> None:
    federation.create()
    for node_id in ("node-a", "node-b"):
        federation[node_id].accept(federation.run_id)
    federation.move("start")
    federation.to_round(1)
    late: Site = federation["node-c"]
    assert [one.run_id for one in late.desired().invitations] == [federation.run_id]
    late.ok(late.accept(federation.run_id))
    wish = late.desired()
    assert (wish.invitations, wish.assignment) == ((), None)
    assert set(federation.statuses(1)) == {"node-a", "node-b"}
    federation.play_round()
    assert set(federation.statuses(2)) == {"node-a", "node-b", "node-c"}
    wish_2 = late.assignment()
    assert wish_2.start is not None
    assert wish_2.initial is not None
    assert wish_2.start.fused_digest == federation.round(1).fused_digest
    federation.play_round()
    assert federation.statuses(2)["node-c"] == "fused"
