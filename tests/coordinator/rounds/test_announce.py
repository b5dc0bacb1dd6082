"""What is accepted as an update, and what is refused with which reason."""

from typing import Any

import pytest

from hsl_model.protocol.manifest import SignedManifest, TensorSpec
from hsl_model.protocol.methods import METHODS
from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import ALL_TENSORS, SHARED, Federation, sha


@pytest.fixture
def in_round_1(federation: Federation) -> Federation:
    return federation.begin().to_round(1)


WRONG_SHAPE = TensorSpec(name="encoder.weight", dtype="F32", shape=(4, 4))
STRANGER = TensorSpec(name="stranger", dtype="F32", shape=(1,))


@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        ({"num_cases": 0}, "no_cases", "no case"),
        ({"tensors": (), "update_bytes": 0}, "empty", "no tensors"),
        ({"start_digest": None}, "stale", "round 0"),
        ({"start_digest": sha("older")}, "stale", "round 0"),
        ({"tensors": (WRONG_SHAPE,)}, "tensors", "encoder.weight F32[4, 4]"),
        ({"tensors": (*SHARED, STRANGER)}, "tensors", "stranger"),
        ({"tensors": SHARED * 2}, "tensors", "twice"),
        ({"tensors": ALL_TENSORS}, "tensors", "private.weight is one too many"),
        ({"tensors": ALL_TENSORS[1:]}, "tensors", "encoder.weight is missing"),
    ],
)
def test_unusable_updates_are_refused_and_recorded(
    in_round_1: Federation, changes: dict[str, Any], reason: str, named: str
) -> None:
    in_round_1["node-a"].announce(in_round_1["node-a"].assignment())
    site = in_round_1["node-b"]
    reply = site.announce(site.assignment(), **changes)
    assert reply.status_code == 422
    problem = reply.json()
    assert (problem["code"], problem["data"]["reason"]) == ("update_refused", reason)
    assert named in problem["detail"]
    assert site.assignment().accepted_sha256 is None
    event = in_round_1.alliance.events(node_id="node-b", kind="update.not_accepted")[-1]
    assert named in event.data["reason"]
    assert site.announce(site.assignment()).is_success  # and the rest goes on


def test_the_unchanged_start_model_is_refused(in_round_1: Federation) -> None:
    site = in_round_1["node-a"]
    wish = site.assignment()
    assert wish.start is not None
    reply = site.announce(wish, update_sha256=wish.start.file_sha256)
    assert reply.json()["data"]["reason"] == "unchanged"


def _of_another_node(site: Any, wish: Any) -> SignedManifest:
    return site.manifest(wish, node_id="node-b")


def _of_another_round(site: Any, wish: Any) -> SignedManifest:
    return site.manifest(wish, round_number=2)


def _changed_after_signing(site: Any, wish: Any) -> SignedManifest:
    signed = site.manifest(wish)
    return signed.model_copy(update={"manifest": signed.manifest.model_copy(update={"num_cases": 1_000_000})})


def _not_base64(site: Any, wish: Any) -> SignedManifest:
    return site.manifest(wish).model_copy(update={"signature": "?"})


@pytest.mark.parametrize("forge", [_of_another_node, _of_another_round, _changed_after_signing, _not_base64])
def test_a_manifest_is_checked_before_anything_else(in_round_1: Federation, forge: Any) -> None:
    site = in_round_1["node-a"]
    wish = site.assignment()
    reply = site.announce_signed(wish, forge(site, wish))
    assert (reply.status_code, reply.json()["code"]) == (422, "manifest_invalid")
    assert site.assignment().accepted_sha256 is None


def test_a_node_without_part_in_the_round_is_refused(in_round_1: Federation) -> None:
    site = in_round_1["node-a"]
    wish = site.assignment()
    for unknown in (wish.model_copy(update={"run_id": "run-unknown"}), wish.model_copy(update={"round_number": 9})):
        assert site.announce(unknown).status_code == 404


def test_an_old_update_is_answered_as_it_was_then(in_round_1: Federation) -> None:
    site = in_round_1["node-a"]
    old = site.assignment()
    in_round_1.to_round(3)
    answer = site.announce(old)
    assert answer.json()["participation"] == "announced"
    other = site.announce(old, update_sha256=sha("other"))
    assert other.json()["data"]["accepted_sha256"] == answer.json()["accepted_sha256"]


def test_whoever_announces_nothing_before_the_run_is_stopped_is_told_that_the_round_is_over(
    in_round_1: Federation,
) -> None:
    site = in_round_1["node-a"]
    wish = site.assignment()
    in_round_1.move("stop")
    reply = site.announce(wish)
    assert (reply.status_code, reply.json()["code"]) == (409, "round_over")


def test_a_failed_node_may_announce_after_its_site_retried(in_round_1: Federation) -> None:
    site = in_round_1["node-a"]
    wish = site.assignment()
    site.heartbeat(NodePhase.FAILED, wish, failure="no_space: free some")
    assert in_round_1.statuses()["node-a"] == "failed(no_space: free some)"
    assert site.announce(wish).json()["participation"] == "announced"
    assert in_round_1.statuses()["node-a"] == "announced"


def test_every_method_of_the_registry_is_accepted(federation: Federation) -> None:
    """A method that is added later meets the rules here, whatever it fuses."""
    for name in (name for name, facts in METHODS.items() if not facts.shares_style):
        extra = {"sat_digest": sha("sat")} if name == "hsl" else {}
        federation.begin(method={"name": name}, num_rounds=1, **extra)
        federation.play_round()
        federation.play_round()
        assert federation.run.status == "completed", name
