"""Every waiting state says in one sentence what is missing, who must act, and since when."""

import pytest

from hsl_model.protocol.messages import RefusalKind
from hsl_model.protocol.states import NodePhase
from tests.coordinator.rounds.sites import Federation


def waiting(federation: Federation) -> str:
    sentence = federation.run.waiting
    assert sentence is not None
    assert sentence.count(".") == 1  # one sentence
    assert "2026-01-01" in sentence  # since when
    return sentence


def test_a_draft_names_who_has_not_accepted(federation: Federation) -> None:
    federation.create()
    federation["node-a"].accept(federation.run_id)
    assert "node-b, node-c must run `hsl node accept`" in waiting(federation)
    federation["node-b"].accept(federation.run_id)
    assert "an admin must start the run" in waiting(federation)


def test_round_0_names_who_builds_the_initial_weights(federation: Federation) -> None:
    federation.begin()
    assert "round 0 waits for the initial weights of node-a" in waiting(federation)
    assert "node-a" in (federation["node-b"].assignment().waiting or "")
    assert federation["node-a"].assignment().waiting is None  # it has something to do


def test_an_open_round_names_the_missing_and_their_health(federation: Federation) -> None:
    federation.begin(round_deadline_s=5000.0).to_round(1)
    federation["node-a"].announce(federation["node-a"].assignment())
    federation["node-b"].heartbeat(NodePhase.TRAINING, federation["node-b"].assignment())
    federation.alliance.clock.advance(400)
    federation["node-b"].heartbeat(NodePhase.TRAINING, federation["node-b"].assignment())
    federation.alliance.clock.advance(20)
    text = waiting(federation)
    assert "1 of 3 updates" in text
    assert "node-b (training)" in text
    assert "node-c (lost, last seen 2026-01-01 00:00 UTC: its admin must bring the agent back)" in text
    assert "deadline is 2026-01-01 01:23 UTC" in text
    assert federation["node-a"].assignment().waiting == text
    assert federation["node-b"].assignment().waiting is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"phase": NodePhase.FAILED, "failure": "no_space: free some"}, "hsl node retry"),
        ({"phase": NodePhase.TRAINING, "paused_by_site": True}, "paused by its site's admin"),
    ],
)
def test_a_member_that_cannot_go_on_by_itself_says_who_must_act(
    federation: Federation, fields: dict, expected: str
) -> None:
    federation.begin().to_round(1)
    federation["node-c"].heartbeat(wish=federation["node-c"].assignment(), **fields)
    assert expected in waiting(federation)


def test_a_fusing_round_names_who_owes_a_report_or_an_update(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    federation["node-a"].fusion(federation["node-a"].assignment())
    text = waiting(federation)
    assert "1 of 3 fusion reports" in text
    assert "node-b" in text
    assert "node-c" in text
    assert federation["node-a"].assignment().waiting == text
    assert federation["node-b"].assignment().waiting is None
    federation["node-b"].refuse(federation["node-b"].assignment(), "node-c", RefusalKind.MISSING)
    assert "must be published again by node-c" in waiting(federation)


def test_a_paused_run_says_who_paused_it(federation: Federation) -> None:
    federation.begin()
    federation.move("pause")
    assert waiting(federation) == "Paused by an admin since 2026-01-01 00:00 UTC; an admin must resume the run."
    assert federation["node-a"].assignment().waiting == federation.run.waiting


def test_what_is_over_waits_for_nothing(federation: Federation) -> None:
    federation.begin()
    federation.move("stop")
    assert federation.run.waiting is None
    assert federation.round(0).waiting is None


def test_two_hundred_missing_members_make_a_short_sentence(federation: Federation) -> None:
    names = [f"many-{i:03d}" for i in range(40)]
    for name in names:
        federation.alliance.enrol(name)
    federation.create(nodes=tuple(names))
    assert "many-007 and 32 more" in waiting(federation)
