"""A frozen plan only ever gets smaller, each time as a new version, and never by one node's word."""

import pytest

from hsl_model.protocol.config import QuorumConfig
from hsl_model.protocol.messages import RefusalKind
from tests.coordinator.rounds.sites import Federation, sha


@pytest.fixture
def fusing(federation: Federation) -> Federation:
    return federation.begin(report_deadline_s=300.0).to_fusing(1)


def entries(federation: Federation) -> tuple[int, list[str]]:
    plan = federation.round(1).plan
    assert plan is not None
    return plan.version, [entry.node_id for entry in plan.entries]


def test_a_content_refusal_needs_a_majority_of_the_others(fusing: Federation) -> None:
    a, b, c = fusing.sites.values()
    b.refuse(b.assignment(), "node-a")
    b.refuse(b.assignment(), "node-a")  # the same verifier twice is one vote
    a.refuse(a.assignment(), "node-a")  # the owner has none
    assert entries(fusing) == (1, ["node-a", "node-b", "node-c"])
    c.refuse(c.assignment(), "node-a")
    assert entries(fusing) == (2, ["node-b", "node-c"])
    assert fusing.statuses()["node-a"] == "excluded(refused)"


def test_fusions_of_the_older_version_are_thrown_away(fusing: Federation) -> None:
    a, b, c = fusing.sites.values()
    old = {site.node_id: site.assignment() for site in (a, b, c)}
    a.fusion(old["node-a"])
    b.fusion(old["node-b"])
    fusing.revoke("node-c")
    assert entries(fusing) == (2, ["node-a", "node-b"])
    assert fusing.statuses(1) == {"node-a": "fusing", "node-b": "fusing", "node-c": "excluded(revoked)"}
    for site in (a, b):
        reply = site.fusion(old[site.node_id])
        assert (reply.status_code, reply.json()["data"]["plan_version"]) == (409, 2)
    fusing.fuse_all()
    done = fusing.round(1)
    assert done.status == "completed"
    assert [one.plan_version for one in done.participations] == [2, 2, None]


def test_a_withdrawal_changes_the_plan_in_the_same_transaction(fusing: Federation) -> None:
    fusing["node-b"].withdraw(fusing.run_id)
    assert entries(fusing) == (2, ["node-a", "node-c"])
    assert fusing.statuses()["node-b"] == "excluded(withdrawn)"
    assert fusing["node-b"].desired().finished_runs == (fusing.run_id,)


def test_a_missing_update_is_asked_for_and_published_again(fusing: Federation) -> None:
    a, b, _ = fusing.sites.values()
    own = b.assignment().accepted_sha256
    a.refuse(a.assignment(), "node-b", RefusalKind.MISSING, reason="gone")
    assert b.assignment().republish == (own,)
    assert "node-b" in (fusing.round().waiting or "")
    assert "node-b" in (a.assignment().waiting or "")
    b.announce(b.assignment().model_copy(update={"plan": None}))
    assert b.assignment().republish == ()
    a.refuse(a.assignment(), "node-b", RefusalKind.MISSING, reason="gone")  # still not there: asked again
    assert b.assignment().republish == (own,)
    assert entries(fusing)[0] == 1


def test_a_missing_update_that_is_not_published_before_the_deadline_is_dropped(fusing: Federation) -> None:
    a, b, _ = fusing.sites.values()
    a.refuse(a.assignment(), "node-c", RefusalKind.MISSING, reason="gone")
    b.fusion(b.assignment())
    fusing.alliance.beat(299)
    assert entries(fusing)[0] == 1
    fusing.alliance.beat(1)
    assert entries(fusing) == (2, ["node-a", "node-b"])
    assert fusing.statuses()["node-c"] == "excluded(missing)"
    assert a.assignment().deadline_in_s == 300.0  # a new fusion gets the time of a fusion


def test_without_a_deadline_a_missing_update_is_waited_for(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    a = federation["node-a"]
    a.refuse(a.assignment(), "node-c", RefusalKind.MISSING, reason="gone")
    federation.alliance.beat(30 * 86400)
    assert federation.round().status == "fusing"
    assert "node-c" in (federation.round().waiting or "")


def test_an_update_that_its_owner_has_lost_too_is_dropped_at_once_and_said_so(federation: Federation) -> None:
    """Without a deadline, too: nobody could ever publish it again."""
    federation.begin().to_fusing(1)
    a, _, c = federation.sites.values()
    wish = c.assignment()
    a.refuse(a.assignment(), "node-c", RefusalKind.MISSING, reason="gone")
    assert (wish.accepted_sha256 or "?")[:12] in (federation.round().waiting or "")
    assert c.refuse(wish, "node-c", RefusalKind.LOST, reason="its owner has no copy of it either").is_success
    assert entries(federation) == (2, ["node-a", "node-b"])
    assert federation.statuses()["node-c"] == "excluded(lost)"
    told = federation.alliance.events(run_id=federation.run_id, kind="update.refused")[-1]
    assert (told.node_id, told.data["refusal"], told.data["update_sha256"]) == ("node-c", "lost", wish.accepted_sha256)
    federation.fuse_all()
    assert federation.round(1).status == "completed"
    assert c.assignment().round_number == 2, "whose update was lost is in the next round"


def test_a_lost_update_of_a_required_node_pauses_the_run_with_the_reason(federation: Federation) -> None:
    federation.begin(quorum=QuorumConfig(min_nodes=2, required_nodes=("node-c",))).to_fusing(1)
    c = federation["node-c"]
    c.refuse(c.assignment(), "node-c", RefusalKind.LOST, reason="its owner has no copy of it either")
    assert federation.run.status == "paused"
    assert "node-c" in (federation.run.waiting or "")


@pytest.mark.parametrize(
    ("owner", "changes", "status", "code"),
    [
        ("node-b", {"plan_version": 2}, 409, "plan_superseded"),
        ("node-b", {"update_sha256": sha("x")}, 422, "refusal_invalid"),
        ("node-x", {}, 422, "refusal_invalid"),
        ("node-c", {"kind": RefusalKind.LOST}, 422, "refusal_invalid"),  # only node-c itself knows that
    ],
)
def test_refusals_must_name_an_update_of_the_plan(
    fusing: Federation, owner: str, changes: dict, status: int, code: str
) -> None:
    site = fusing["node-a"]
    reply = site.refuse(site.assignment(), owner, **changes)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_refusals_of_a_round_that_is_not_fusing_are_answered_409(fusing: Federation) -> None:
    wish = fusing["node-a"].assignment()
    fusing.fuse_all()
    reply = fusing["node-a"].refuse(wish, "node-b")
    assert (reply.status_code, reply.json()["code"]) == (409, "round_over")


def test_losing_the_quorum_pauses_the_run_until_an_admin_goes_on_with_the_rest(fusing: Federation) -> None:
    fusing["node-b"].withdraw(fusing.run_id)
    assert fusing.run.status == "running"
    fusing["node-c"].withdraw(fusing.run_id)
    run = fusing.run
    assert (run.status, run.reason) == ("paused", "quorum_lost")
    assert "1 of at least 2 nodes" in (run.waiting or "")
    fusing.move("resume")
    fusing.fuse_all()
    assert fusing.round(1).status == "completed"
    assert fusing.run.status == "running"


def test_a_run_without_members_fails(fusing: Federation) -> None:
    for site in fusing.sites.values():
        site.withdraw(fusing.run_id)
    run = fusing.run
    assert run.status == "failed"
    assert "No member is left" in (run.reason or "")
    assert fusing.round(1).status == "failed"
