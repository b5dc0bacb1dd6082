"""Round 0: the initial weights belong to the run (rule 8)."""

from hsl_model.protocol.config import InitialWeights
from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import SHARED, Federation, sha


def initialisers(federation: Federation) -> list[str]:
    return [site.node_id for site, wish in federation.wishes() if wish.is_initialiser]


def test_the_next_member_builds_them_when_the_first_is_revoked(federation: Federation) -> None:
    federation.begin()
    assert initialisers(federation) == ["node-a"]
    federation.revoke("node-a")
    assert initialisers(federation) == ["node-b"]
    federation.play_round()
    assert federation.run.round_number == 1
    initial = federation["node-c"].assignment().initial
    assert initial is not None
    assert initial.file_sha256 == federation.round(0).fused_file_sha256


def test_the_next_member_builds_them_while_the_first_has_failed(federation: Federation) -> None:
    federation.begin()
    site = federation["node-a"]
    wish = site.assignment()
    site.heartbeat(NodePhase.FAILED, wish, failure="initial_file_missing")
    assert initialisers(federation) == ["node-b"]
    federation.announce_all()
    assert federation.statuses()["node-a"].startswith("failed")
    site.heartbeat(NodePhase.WAITING, wish)  # retried: it fuses the weights of node-b like everybody
    assert federation.statuses()["node-a"] == "fusing"
    assert site.announce(wish).json() == {"participation": "fusing", "reason": "late", "accepted_sha256": None}
    federation.fuse_all()
    assert set(federation.statuses(0).values()) == {"fused"}


def test_the_next_member_builds_them_when_the_deadline_passes(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0)
    federation.alliance.beat(600)
    assert initialisers(federation) == ["node-b"]
    assert federation.statuses()["node-a"] == "excluded(late)"
    assert federation["node-b"].assignment().deadline_in_s == 600.0
    federation.play_round()
    assert federation.statuses(1)["node-a"] == "assigned"


def test_a_required_first_member_is_waited_for(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0, quorum={"min_nodes": 1, "required_nodes": ("node-a",)})
    federation.alliance.beat(10_000)
    assert initialisers(federation) == ["node-a"]
    assert "node-a" in (federation.run.waiting or "")


def test_their_plan_stands_when_the_site_that_built_them_leaves(federation: Federation) -> None:
    federation.begin().to_fusing(0)
    plan = federation.round().plan
    federation.revoke("node-a")
    found = federation.round()
    assert (found.status, found.plan) == ("fusing", plan)
    roster = {entry.node_id for entry in federation["node-b"].desired().roster}
    assert roster == {"node-a", "node-b", "node-c"}  # its signature still has to be checked
    federation.fuse_all()
    assert federation.round(0).status == "completed"
    initial = federation["node-b"].assignment().initial
    assert initial is not None
    assert initial.on_hub == ()  # a revoked node's folder is nobody's source


def test_initial_weights_that_a_majority_refuses_end_the_run(federation: Federation) -> None:
    federation.begin().to_fusing(0)
    for node_id in ("node-b", "node-c"):
        federation[node_id].refuse(federation[node_id].assignment(), "node-a")
    run = federation.run
    assert run.status == "failed"
    assert "initial weights of node-a" in (run.reason or "")


def test_a_run_that_starts_from_a_file_accepts_only_that_file(federation: Federation) -> None:
    expected = sha("an earlier run's model")
    federation.begin(initial=InitialWeights(seed=None, file_sha256=expected))
    site = federation["node-a"]
    assert site.announce(site.assignment()).json()["data"]["reason"] == "initial"
    assert site.announce(site.assignment(), update_sha256=expected).is_success
    plan = federation.round().plan
    assert plan is not None
    assert plan.entries[0].update_sha256 == expected


def test_every_tensor_of_a_later_update_must_be_in_the_initial_weights(federation: Federation) -> None:
    federation.begin()
    site = federation["node-a"]
    site.announce(site.assignment(), tensors=SHARED)
    federation.fuse_all()
    reply = site.announce(site.assignment(), tensors=(SHARED[0].model_copy(update={"name": "encoder.bias"}),))
    assert reply.json()["data"]["reason"] == "tensors"


def test_they_lie_where_they_were_announced(federation: Federation) -> None:
    """Tensor files are written deterministically: fusing one update with weight 1 gives the same file."""
    federation.begin().to_fusing(0)
    for site, wish in federation.wishes():
        assert wish.plan is not None
        site.fusion(wish, file_sha256=wish.plan.entries[0].update_sha256)
    initial = federation["node-c"].assignment().initial
    assert initial is not None
    assert initial.on_hub == ("node-a",)
