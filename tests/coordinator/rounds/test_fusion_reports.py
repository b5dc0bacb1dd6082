"""Reports are kept once, compared when nobody owes one, and decide the round."""

import pytest

from tests.coordinator.rounds.sites import Federation, sha


@pytest.fixture
def fusing(federation: Federation) -> Federation:
    return federation.begin().to_fusing(1)


def test_the_report_before_adopting_does_not_close_the_round(fusing: Federation) -> None:
    for site in fusing.sites.values():
        site.ok(site.fusion(site.assignment(), validation=None))
    assert fusing.round().status == "fusing"
    assert {one.plan_version for one in fusing.round().participations} == {1}
    fusing.fuse_all(auc=0.8)
    assert fusing.round(1).status == "completed"
    assert fusing.round(1).mean_auc == 0.8


def test_an_earlier_report_that_arrives_later_takes_nothing_back(fusing: Federation) -> None:
    a = fusing["node-a"]
    wish = a.assignment()
    a.ok(a.fusion(wish))
    a.ok(a.fusion(wish, validation=None))
    for site in list(fusing.sites.values())[1:]:
        site.fusion(site.assignment())
    assert fusing.round(1).status == "completed"


@pytest.mark.parametrize("changes", [{"fused_digest": sha("x")}, {"file_sha256": sha("y")}])
def test_the_digests_may_not_change(fusing: Federation, changes: dict) -> None:
    a = fusing["node-a"]
    wish = a.assignment()
    a.ok(a.fusion(wish, validation=None))
    reply = a.fusion(wish, **changes)
    assert (reply.status_code, reply.json()["code"]) == (409, "already_reported")


def test_a_common_model_must_name_its_file(fusing: Federation) -> None:
    a = fusing["node-a"]
    reply = a.fusion(a.assignment(), file_sha256=None, file_bytes=None)
    assert (reply.status_code, reply.json()["code"]) == (422, "fusion_report_invalid")


@pytest.mark.parametrize("changes", [{"plan_version": 7}, {"attempt": 1}])
def test_reports_on_another_plan_or_attempt_are_superseded(fusing: Federation, changes: dict) -> None:
    a = fusing["node-a"]
    reply = a.fusion(a.assignment(), **changes)
    assert (reply.status_code, reply.json()["code"]) == (409, "plan_superseded")


def test_a_deviating_node_that_agrees_at_the_second_try_is_in(fusing: Federation) -> None:
    a, b, c = fusing.sites.values()
    c.fusion(c.assignment(), fused_digest=sha("bit flip"))
    first = c.assignment()
    assert first.redo_fusion == 0  # nothing to compare with yet
    a.fusion(a.assignment())
    b.fusion(b.assignment())
    again = c.assignment()
    assert again.redo_fusion == 1
    assert fusing.statuses(1) == {"node-a": "fused", "node-b": "fused", "node-c": "fusing"}
    assert c.fusion(first).json()["code"] == "plan_superseded"
    c.fusion(again)
    assert fusing.round(1).status == "completed"
    assert set(fusing.statuses(1).values()) == {"fused"}


def test_without_a_majority_everybody_fuses_again_and_then_the_run_is_paused(fusing: Federation) -> None:
    def report_differently() -> None:
        for site, wish in fusing.wishes():
            site.ok(site.fusion(wish, fused_digest=sha(site.node_id)))

    report_differently()
    assert [wish.redo_fusion for _, wish in fusing.wishes()] == [1, 1, 1]
    assert fusing.run.status == "running"
    report_differently()
    run = fusing.run
    assert (run.status, run.reason) == ("paused", "digest_disagreement")
    assert "no majority" in (run.waiting or "")
    fusing.move("resume")
    report_differently()
    assert fusing.run.reason == "digest_disagreement"  # still none: paused again
    fusing.move("resume")
    fusing.fuse_all()
    assert fusing.round(1).status == "completed"
    assert fusing.run.round_number == 2


def test_while_a_run_is_paused_for_it_nobody_is_asked_to_fuse_again(fusing: Federation) -> None:
    """Agents finish what they have begun while a run is paused: each new request would be answered, and so for ever."""
    for _ in range(2):
        for site, wish in fusing.wishes():
            site.ok(site.fusion(wish, fused_digest=sha(site.node_id)))
    assert fusing.run.reason == "digest_disagreement"
    asked = len(fusing.alliance.events(kind="participation.fuse_again"))
    before = {site.node_id: site.desired().version for site in fusing.sites.values()}
    for _ in range(3):
        for site, wish in fusing.wishes():
            site.fusion(wish, fused_digest=sha(site.node_id))
        fusing.alliance.beat(60)
    assert len(fusing.alliance.events(kind="participation.fuse_again")) == asked
    assert {site.node_id: site.desired().version for site in fusing.sites.values()} == before
    assert len(fusing.alliance.events(kind="round.digests_disagree")) == 1
    fusing.move("resume")
    assert {wish.redo_fusion for _, wish in fusing.wishes()} == {2}


def test_the_deviating_site_may_be_revoked_while_the_run_is_paused_for_it(federation: Federation) -> None:
    federation.begin(quorum={"min_nodes": 1}).to_fusing(1)
    for _ in range(2):
        for site, wish in federation.wishes():
            site.fusion(wish, fused_digest=sha(site.node_id))
    federation.revoke("node-c")
    federation.move("resume")
    assert {wish.redo_fusion for _, wish in federation.wishes()} == {0}  # another plan: nothing to be repeated
    federation.fuse_all()
    assert federation.round(1).status == "completed"


def test_a_required_node_that_deviates_twice_pauses_the_run(federation: Federation) -> None:
    federation.begin(quorum={"min_nodes": 2, "required_nodes": ("node-c",)}).to_fusing(1)
    for _ in range(2):
        for site, wish in federation.wishes():
            changes = {"fused_digest": sha("broken")} if site.node_id == "node-c" else {}
            site.fusion(wish, **changes)
    run = federation.run
    assert (run.status, run.reason) == ("paused", "quorum_lost")
    assert federation.round(1).status == "completed"
    federation.move("resume")
    assert federation.run.round_number == 2


def test_the_report_deadline_without_quorum_waits_and_says_so(federation: Federation) -> None:
    federation.begin(report_deadline_s=300.0).to_fusing(1)
    a, b, _ = federation.sites.values()
    a.fusion(a.assignment())
    federation.alliance.beat(300)
    assert federation.round().status == "fusing"
    assert "1 of at least 2 nodes" in (federation.round().waiting or "")
    b.fusion(b.assignment())
    assert federation.round(1).status == "completed"
    assert federation.statuses(1)["node-c"] == "excluded(no_report)"


def test_a_late_reporter_of_a_completed_round_is_heard(federation: Federation) -> None:
    federation.begin(report_deadline_s=300.0).to_fusing(1)
    c = federation["node-c"]
    wish = c.assignment()
    for node_id in ("node-a", "node-b"):
        federation[node_id].fusion(federation[node_id].assignment())
    federation.alliance.beat(300)
    c.ok(c.fusion(wish, auc=0.9))
    found = next(one for one in federation.round(1).participations if one.node_id == "node-c")
    assert (found.status, found.reason) == ("excluded", "no_report")
    assert found.validation is not None
    assert federation.round(1).mean_auc == 0.7  # the record of the round stands


def test_aucs_that_are_undefined_contribute_nothing(fusing: Federation) -> None:
    for auc, site in zip((None, 0.6, 0.8), fusing.sites.values(), strict=True):
        site.fusion(site.assignment(), auc=auc)
    assert fusing.round(1).mean_auc == pytest.approx(0.7)


def test_a_round_where_no_auc_is_defined_has_no_mean(fusing: Federation) -> None:
    fusing.fuse_all(auc=None)
    assert fusing.round(1).status == "completed"
    assert fusing.round(1).mean_auc is None
