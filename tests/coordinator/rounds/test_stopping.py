"""Pausing, stopping, revoking and withdrawing, in every state of a round (rule 12)."""

from collections.abc import Callable

import pytest

from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import Federation


def _opened(federation: Federation) -> None:
    federation.to_round(1)


def _training(federation: Federation) -> None:
    federation.to_round(1)
    federation["node-b"].heartbeat(NodePhase.TRAINING, federation["node-b"].assignment())


def _uploading(federation: Federation) -> None:
    federation.to_round(1)
    federation["node-b"].uploading(federation["node-b"].assignment(), 1)


def _failed(federation: Federation) -> None:
    federation.to_round(1)
    federation["node-b"].heartbeat(NodePhase.FAILED, federation["node-b"].assignment(), failure="no_space")


def _announced(federation: Federation) -> None:
    federation.to_round(1)
    federation["node-b"].announce(federation["node-b"].assignment())


def _fusing(federation: Federation) -> None:
    federation.to_fusing(1)


def _reported(federation: Federation) -> None:
    federation.to_fusing(1)
    federation["node-b"].fusion(federation["node-b"].assignment())


def _initial_open(federation: Federation) -> None:
    pass


def _initial_fusing(federation: Federation) -> None:
    federation.to_fusing(0)


STATES = [_initial_open, _initial_fusing, _opened, _training, _uploading, _failed, _announced, _fusing, _reported]
in_each_state = pytest.mark.parametrize("bring_there", STATES, ids=lambda f: f.__name__.strip("_"))


@in_each_state
@pytest.mark.parametrize("reason", ["revoked", "withdrawn"])
def test_the_others_go_on_without_a_node_that_left(
    federation: Federation, bring_there: Callable[[Federation], None], reason: str
) -> None:
    federation.begin()
    bring_there(federation)
    number = federation.run.round_number
    if reason == "revoked":
        federation.revoke("node-b")
    else:
        federation["node-b"].withdraw(federation.run_id)
        left = federation.sites.pop("node-b").desired()
        assert (left.assignment, left.finished_runs) == (None, (federation.run_id,))
    assert federation.statuses(number)["node-b"] == f"excluded({reason})"
    assert "node-b" not in {entry.node_id for entry in federation["node-a"].desired().roster}
    while federation.run.round_number == number:
        federation.play_round()
    assert federation.round(number).status == "completed"
    assert set(federation.statuses(number + 1)) == {"node-a", "node-c"}


@in_each_state
def test_a_stopped_run_leaves_nothing_to_do(federation: Federation, bring_there: Callable[[Federation], None]) -> None:
    federation.begin()
    bring_there(federation)
    number = federation.run.round_number
    assert federation.move("stop").status == "stopped"
    assert federation.round(number).status == "cancelled"
    federation.alliance.beat(1e6)
    for site in federation.sites.values():
        wish = site.desired()
        assert (wish.assignment, wish.finished_runs) == (None, (federation.run_id,))
    assert federation.run.status == "stopped"


@in_each_state
def test_a_paused_run_continues_where_it_was(federation: Federation, bring_there: Callable[[Federation], None]) -> None:
    federation.begin(round_deadline_s=600.0, report_deadline_s=600.0)
    bring_there(federation)
    before = (federation.run.round_number, federation.statuses())
    federation.move("pause")
    for site, wish in federation.wishes():
        assert wish.run_status == "paused"
        assert "hsl" in (wish.waiting or "") or "admin" in (wish.waiting or "")
        assert site.desired().finished_runs == ()
    federation.alliance.beat(1e6)
    assert (federation.run.round_number, federation.statuses()) == before
    federation.move("resume")
    federation.alliance.beat(599)
    assert (federation.run.round_number, federation.statuses()) == before
    if before[1].get("node-b", "").startswith("failed"):
        federation["node-b"].heartbeat(NodePhase.TRAINING, federation["node-b"].assignment())
    for _ in range(2):
        federation.play_round()
    assert federation.run.round_number > before[0]


def test_deadlines_move_on_by_the_pause(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0).to_round(1)
    federation.alliance.clock.advance(200)
    federation.move("pause")
    federation.alliance.clock.advance(5000)
    assert federation["node-a"].assignment().deadline_in_s == 400.0
    federation.move("resume")
    assert federation["node-a"].assignment().deadline_in_s == 400.0
    federation.alliance.clock.advance(399)
    assert federation["node-a"].assignment().deadline_in_s == 1.0


def test_while_paused_an_upload_may_finish_but_the_plan_does_not_freeze(federation: Federation) -> None:
    federation.begin().to_round(1)
    federation.move("pause")
    federation.announce_all()
    assert federation.round().status == "open"
    assert set(federation.statuses().values()) == {"announced"}
    federation.move("resume")
    assert federation.round().status == "fusing"


def test_the_last_round_that_completes_while_paused_completes_the_run_when_it_is_resumed(
    federation: Federation,
) -> None:
    federation.begin(num_rounds=1).to_fusing(1)
    federation.move("pause")
    federation.fuse_all()
    assert federation.run.status == "paused"
    assert federation.move("resume").status == "completed"


def test_members_that_leave_between_two_rounds_of_a_paused_run_are_named(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    federation.move("pause")
    federation.fuse_all()
    for node_id in ("node-b", "node-c"):
        federation[node_id].withdraw(federation.run_id)
    assert "1 of at least 2 nodes" in (federation.run.waiting or "")
    federation.move("resume")
    assert set(federation.statuses(2)) == {"node-a"}


def test_an_accept_that_was_under_way_does_not_undo_a_withdrawal(federation: Federation) -> None:
    federation.begin()
    site = federation["node-b"]
    site.withdraw(federation.run_id)
    reply = site.accept(federation.run_id)
    assert (reply.status_code, reply.json()["code"]) == (409, "membership_over")
    assert site.withdraw(federation.run_id).is_success
