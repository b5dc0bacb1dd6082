"""Lost, repeated and reordered messages change nothing (rules 1 and 2)."""

import itertools
from typing import Any

import pytest

from hsl_model.protocol.messages import Assignment
from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import Federation, Site


def ledger(federation: Federation) -> list[tuple[Any, ...]]:
    """Everything the coordinator has recorded, but for the ids."""
    return [
        (row.kind, row.actor, row.round_number, row.node_id, sorted(row.data.items()))
        for row in federation.alliance.events(run_id=federation.run_id)
    ]


def outcome(federation: Federation) -> list[tuple[Any, ...]]:
    run = federation.run
    return [
        (found.status, found.fused_digest, found.mean_auc, found.plan, found.participations)
        for found in (federation.round(number) for number in range((run.round_number or 0) + 1))
    ]


def speak_again(federation: Federation, site: Site, num_sent: int) -> None:
    """Everything this site has said so far comes a second time; whatever is answered, nothing may change."""
    before = (ledger(federation), federation.round(), federation.run)
    for path, body in list(site.sent[:num_sent]):
        site.speaker.post(path, body)
    assert (ledger(federation), federation.round(), federation.run) == before


def test_every_message_of_a_run_may_come_again_at_any_later_time(federation: Federation) -> None:
    federation.begin(num_rounds=2)
    for _ in range(3):
        for site, wish in federation.wishes():
            if wish.round_number > 0 or wish.is_initialiser:
                if wish.round_number > 0:
                    site.heartbeat(NodePhase.TRAINING, wish)
                    site.uploading(wish, 100)
                site.ok(site.announce(wish))
        for site in federation.sites.values():
            speak_again(federation, site, len(site.sent))
        for site, wish in federation.wishes():
            site.ok(site.fusion(wish, validation=None))
            site.ok(site.fusion(wish))
        for site in federation.sites.values():
            speak_again(federation, site, len(site.sent))
    assert federation.run.status == "completed"
    assert federation.alliance.event_kinds().count("participation.announced") == 1 + 3 + 3


def test_an_answer_that_was_lost_is_given_again(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    first = site.announce(wish)
    federation.announce_all()
    federation.fuse_all()
    assert federation.run.round_number == 2
    assert site.announce(wish).json() == first.json()
    assert site.accept(federation.run_id).is_success
    assert federation.move("start").status == "running"


ORDERS = list(itertools.permutations(("node-a", "node-b", "node-c")))


@pytest.mark.parametrize(("announced", "reported"), list(zip(ORDERS, reversed(ORDERS), strict=True)))
def test_the_order_of_the_nodes_does_not_matter(
    federation: Federation, announced: tuple[str, ...], reported: tuple[str, ...]
) -> None:
    federation.begin(num_rounds=1).to_round(1)
    wishes: dict[str, Assignment] = {site.node_id: wish for site, wish in federation.wishes()}
    for node_id in announced:
        federation[node_id].ok(federation[node_id].announce(wishes[node_id]))
    wishes = {site.node_id: wish for site, wish in federation.wishes()}
    for auc, node_id in enumerate(reported):
        federation[node_id].ok(federation[node_id].fusion(wishes[node_id], auc=0.5 + auc / 10))
    run, found = federation.run, federation.round(1)
    assert (run.status, found.status) == ("completed", "completed")
    assert found.mean_auc == pytest.approx(0.6)
    assert found.plan is not None
    assert [entry.node_id for entry in found.plan.entries] == ["node-a", "node-b", "node-c"]


def test_heartbeats_that_arrive_late_move_nothing_back(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    site.heartbeat(NodePhase.TRAINING, wish)
    site.uploading(wish, 10)
    assert federation.statuses()["node-a"] == "uploading"
    site.announce(wish)
    for phase in (NodePhase.TRAINING, NodePhase.UPLOADING, NodePhase.FAILED):
        site.heartbeat(phase, wish)
        assert federation.statuses()["node-a"] == "announced"
    federation.announce_all()
    site.heartbeat(NodePhase.TRAINING, wish)
    assert federation.statuses()["node-a"] == "fusing"
    federation.fuse_all()
    site.heartbeat(NodePhase.FAILED, wish, failure="of the round before")
    assert federation.statuses(2)["node-a"] == "assigned"
