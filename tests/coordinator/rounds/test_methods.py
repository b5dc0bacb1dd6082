"""What methods with a fusion of their own, or none, exchange and compare (rule 10)."""

import pytest

from tests.coordinator.rounds.sites import EMPTY, Federation, sha


@pytest.mark.parametrize("name", ["personalised", "local"])
def test_every_round_starts_from_round_0_for_whoever_has_nothing_newer(federation: Federation, name: str) -> None:
    federation.begin(method={"name": name}).to_round(3)
    wish = federation["node-a"].assignment()
    assert wish.start == wish.initial
    assert wish.start is not None
    assert wish.start.round_number == 0
    assert wish.keep == (wish.start.file_sha256,)
    found = federation.round(2)
    assert found.fused_digest is not None
    assert found.fused_file_sha256 is None


def test_own_models_have_starts_of_their_own(federation: Federation) -> None:
    federation.begin(method={"name": "personalised"}).to_round(1)
    for site, wish in federation.wishes():
        site.ok(site.announce(wish, start_digest=sha("own model of", site.node_id)))
    assert federation.round().status == "fusing"


def test_a_deviating_digest_of_the_inputs_is_found(federation: Federation) -> None:
    federation.begin(method={"name": "personalised"}).to_fusing(1)
    for site, wish in federation.wishes():
        changes = {"fused_digest": sha("other inputs")} if site.node_id == "node-a" else {}
        site.ok(site.fusion(wish, **changes))
    assert federation["node-a"].assignment().redo_fusion == 1


def test_local_exchanges_nothing(federation: Federation) -> None:
    federation.begin(method={"name": "local"}).to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    reply = site.announce(wish, update_bytes=10)
    assert reply.json()["data"]["reason"] == "tensors"
    federation.announce_all()
    plan = federation.round().plan
    assert plan is not None
    assert {(entry.update_sha256, entry.update_bytes) for entry in plan.entries} == {(EMPTY, 0)}
    federation.fuse_all()
    assert federation.round(1).status == "completed"
