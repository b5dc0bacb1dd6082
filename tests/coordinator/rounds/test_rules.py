"""The rules of the round, as far as they are the coordinator's to keep; one test each, on both databases."""

import pytest

from hsl_model.protocol import transport
from hsl_model.protocol.messages import RefusalKind
from hsl_model.protocol.states import NodePhase
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, enrolled, run_config, sha


@pytest.fixture
def federation(alliance: Alliance) -> Federation:
    return enrolled(alliance)


def test_rule_1_pull_never_push(federation: Federation) -> None:
    """Whoever asks is told everything, as often as it asks, in durations."""
    federation.begin(round_deadline_s=600.0).to_round(1)
    site = federation["node-a"]
    first, again = site.desired(), site.desired()
    assert first == again
    federation.alliance.clock.advance(60)
    later = site.desired()
    assert later.version == first.version
    assert later.assignment is not None
    assert first.assignment is not None
    assert first.assignment.deadline_in_s == 600.0
    assert later.assignment.deadline_in_s == 540.0


def test_rule_2_guarded_moves(federation: Federation) -> None:
    """A repeated request gets its first answer, an impossible one 409, and every move one event."""
    federation.begin()
    path = f"{transport.API}/runs/{federation.run_id}"
    assert federation.move("start").status == "running"
    assert federation.move("pause").status == "paused"
    assert federation.move("pause").status == "paused"
    assert federation.move("resume").status == "running"
    assert federation.move("stop").status == "stopped"
    refused = federation.alliance.admin.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "run_state")
    kinds = federation.alliance.event_kinds(run_id=federation.run_id)
    moves = [kind for kind in kinds if kind.startswith("run.")]
    assert moves == ["run.draft", "run.running", "run.paused", "run.running", "run.stopped"]


def test_rule_3_one_update_per_node_and_round(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    assert site.announce(wish).json()["participation"] == "announced"
    assert site.announce(wish).json()["participation"] == "announced"
    other = site.announce(wish, update_sha256=sha("another"))
    assert other.status_code == 409
    assert other.json()["code"] == "already_announced"
    accepted = other.json()["data"]["accepted_sha256"]
    assert accepted == site.assignment().accepted_sha256 == sha("update", wish.run_id, 1, "node-a")
    kinds = federation.alliance.event_kinds(run_id=federation.run_id, node_id="node-a")
    assert kinds.count("participation.announced") == 2  # rounds 0 and 1
    for node_id in ("node-b", "node-c"):
        federation[node_id].announce(federation[node_id].assignment())
    plan = site.assignment().plan
    assert plan is not None
    assert [entry.node_id for entry in plan.entries] == ["node-a", "node-b", "node-c"]


def test_rule_4_freeze(federation: Federation) -> None:
    """At the deadline with quorum; late nodes are named, fuse the plan without themselves, and are back in the next."""
    federation.begin(round_deadline_s=600.0).to_round(1)
    federation["node-a"].announce(federation["node-a"].assignment())
    federation.alliance.beat(601)
    assert federation.round().status == "open"  # one of two: no quorum
    assert "node-b" in (federation.round().waiting or "")
    federation["node-b"].announce(federation["node-b"].assignment())
    found = federation.round()
    assert found.status == "fusing"
    assert found.plan is not None
    assert [entry.node_id for entry in found.plan.entries] == ["node-a", "node-b"]
    late = federation["node-c"]
    wish = late.assignment()
    assert (wish.participation, wish.participation_reason, wish.plan) == ("excluded", "late", found.plan)
    answer = late.announce(wish).json()
    assert answer == {"participation": "excluded", "reason": "late", "accepted_sha256": None}
    assert late.fusion(wish).is_success
    federation.fuse_all()
    assert federation.run.round_number == 2
    assert late.assignment().participation == "assigned"


def test_rule_5_a_plan_has_a_version(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    a, b, c = federation.sites.values()
    old = a.assignment()
    assert a.fusion(old).is_success
    assert b.refuse(b.assignment(), "node-c", RefusalKind.MISSING, reason="not there").is_success
    assert c.assignment().republish == (c.assignment().accepted_sha256,)
    assert c.announce(c.assignment()).is_success
    assert c.assignment().republish == ()
    a.refuse(a.assignment(), "node-c")
    assert a.assignment().plan == old.plan  # one of two others is no majority
    b.refuse(b.assignment(), "node-c")
    wish = a.assignment()
    assert wish.plan is not None
    assert (wish.plan.version, [entry.node_id for entry in wish.plan.entries]) == (2, ["node-a", "node-b"])
    assert [entry.weight for entry in wish.plan.entries] == [0.5, 0.5]
    assert federation.statuses()["node-c"] == "excluded(refused)"
    superseded = a.fusion(old)
    assert (superseded.status_code, superseded.json()["code"]) == (409, "plan_superseded")
    federation.fuse_all()
    assert federation.round(1).status == "completed"


def test_rule_6_completed_when_all_have_reported_or_at_the_deadline_with_quorum(federation: Federation) -> None:
    federation.begin(report_deadline_s=300.0).to_fusing(1)
    a, b, c = federation.sites.values()
    a.fusion(a.assignment())
    b.fusion(b.assignment(), validation=None)  # fused, but not validated yet
    c.fusion(c.assignment())
    assert federation.round().status == "fusing"
    federation.alliance.beat(301)
    done = federation.round(1)
    assert done.status == "completed"
    assert federation.statuses(1) == {"node-a": "fused", "node-b": "excluded(no_report)", "node-c": "fused"}
    assert federation.run.round_number == 2
    assert b.assignment().start is not None
    assert b.assignment().participation == "assigned"  # it catches up, and is in the next round


def test_rule_7_publish_on_request(federation: Federation) -> None:
    federation.begin().to_round(2)
    a, b, c = federation.sites.values()
    start = c.assignment().start
    assert start is not None
    assert start.on_hub == ()
    c.desired(missing=(start.file_sha256,))
    asked = [site for site in (a, b) if site.desired().publish]
    assert asked == [a]
    assert [request.file_sha256 for request in a.desired().publish] == [start.file_sha256]
    assert a.published(federation.run_id, start.file_sha256).is_success
    assert a.desired().publish == ()
    told = c.assignment().start
    assert told is not None
    assert told.on_hub == ("node-a",)


def test_rule_8_initial_weights_belong_to_the_run(federation: Federation) -> None:
    federation.begin()
    wishes = {node_id: site.assignment() for node_id, site in federation.sites.items()}
    assert [wish.is_initialiser for wish in wishes.values()] == [True, False, False]
    federation["node-a"].announce(wishes["node-a"])
    plan = federation.round().plan
    assert plan is not None
    assert [(entry.node_id, entry.weight) for entry in plan.entries] == [("node-a", 1.0)]
    federation.fuse_all()
    assert {site.assignment().start for site in federation.sites.values()} == {
        federation["node-a"].assignment().initial
    }


def test_rule_9_all_members_fuse(federation: Federation) -> None:
    """With fusers `all`, nobody is done before every member of the plan has reported."""
    federation.begin().to_fusing(1)
    for site in list(federation.sites.values())[:2]:
        site.fusion(site.assignment())
    assert federation.round().status == "fusing"
    federation.fuse_all()
    assert federation.round(1).status == "completed"


def test_rule_10_what_is_compared(federation: Federation) -> None:
    """Once more, then excluded: a digest that deviates from the majority's."""
    federation.begin().to_fusing(1)
    a, b, c = federation.sites.values()
    for site in (a, b):
        site.fusion(site.assignment())
    c.fusion(c.assignment(), fused_digest=sha("broken memory"))
    assert c.assignment().redo_fusion == 1
    assert a.assignment().redo_fusion == 0
    assert federation.round().status == "fusing"
    c.fusion(c.assignment(), fused_digest=sha("broken memory"))
    assert federation.round(1).status == "completed"
    assert federation.statuses(1)["node-c"] == "excluded(digest)"
    assert federation.statuses(2)["node-c"] == "assigned"


def test_rule_11_weights_are_computed_once_and_written_into_the_plan(federation: Federation) -> None:
    federation.begin(method=run_config().method.model_copy(update={"name": "fedavg"})).to_fusing(1)
    plans = [site.assignment().plan for site in federation.sites.values()]
    assert plans[0] == plans[1] == plans[2] == federation.round().plan
    assert plans[0] is not None
    assert [entry.weight for entry in plans[0].entries] == [60 / 360, 120 / 360, 180 / 360]
    assert [entry.node_id for entry in plans[0].entries] == ["node-a", "node-b", "node-c"]


def test_rule_12_stopping(federation: Federation) -> None:
    """Paused: deadlines stand still, a fusion finishes, no round opens. Stopped: everybody may drop its work."""
    federation.begin(round_deadline_s=600.0).to_fusing(1)
    federation.move("pause")
    federation.fuse_all()
    assert federation.round(1).status == "completed"
    federation.alliance.beat(10_000)
    assert (federation.run.status, federation.run.round_number) == ("paused", 1)
    federation.move("resume")
    assert federation.run.round_number == 2
    assert federation["node-a"].assignment().deadline_in_s == 600.0
    federation.move("stop")
    assert federation.round(2).status == "cancelled"
    for site in federation.sites.values():
        wish = site.desired()
        assert (wish.assignment, wish.finished_runs) == (None, (federation.run_id,))


def test_rule_13_never_succeed_silently(federation: Federation) -> None:
    """A closed round has a record of everybody; an unusable update is refused with a reason, and recorded."""
    federation.begin(round_deadline_s=600.0).to_round(1)
    a, b, c = federation.sites.values()
    wish = a.assignment()
    assert wish.start is not None
    refused = a.announce(wish, update_sha256=wish.start.file_sha256)
    assert (refused.status_code, refused.json()["data"]["reason"]) == (422, "unchanged")
    assert "update.not_accepted" in federation.alliance.event_kinds(run_id=federation.run_id, node_id="node-a")
    a.announce(wish)
    b.announce(b.assignment())
    assert "node-c" in (federation.round().waiting or "")
    federation.alliance.beat(601)
    federation.fuse_all()
    reply = federation.alliance.admin.get(
        f"{transport.API}/events", run_id=federation.run_id, kind="round.participation_record", limit=500
    )
    record = {one["node_id"]: one["data"] for one in reply.json()["items"] if one["round_number"] == 1}
    assert (record["node-a"]["status"], record["node-a"]["weight"], record["node-a"]["num_steps"]) == ("fused", 0.5, 50)
    assert (record["node-c"]["status"], record["node-c"]["reason"]) == ("excluded", "late")
    assert c.assignment().round_number == 2


def test_rule_14_an_upload_that_moves_gets_one_extension(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    a, b, c = federation.sites.values()
    for site in (a, b):
        site.announce(site.assignment())
    wish = c.assignment()
    federation.alliance.clock.advance(570)
    c.uploading(wish, done=10)
    federation.alliance.clock.advance(20)
    c.uploading(wish, done=40)
    federation.alliance.beat(15)
    assert federation.round().status == "open"
    assert c.assignment().deadline_in_s == 300.0
    federation.alliance.clock.advance(295)
    c.heartbeat(NodePhase.UPLOADING, wish)
    federation.alliance.beat(10)
    assert federation.round().status == "fusing"  # only one extension
    assert federation.statuses()["node-c"] == "excluded(late)"
