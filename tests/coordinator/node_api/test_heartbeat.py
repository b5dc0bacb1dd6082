"""Heartbeats: facts of a node that others see, and nothing else."""

import pytest

from hsl_model.protocol.messages import Progress
from hsl_model.protocol.states import NodePhase
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import NodeView
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, enrolled


@pytest.fixture
def federation(sqlite_alliance: Alliance) -> Federation:
    return enrolled(sqlite_alliance)


def view(federation: Federation, node_id: str = "node-a") -> NodeView:
    return NodeView.model_validate_json(federation.alliance.admin.get(f"{API}/nodes/{node_id}").content)


def test_what_a_node_does_is_shown(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    progress = Progress(unit="steps", done=5, total=50, rate_per_s=1.5)
    site.heartbeat(NodePhase.TRAINING, site.assignment(), progress=progress, waiting="for data", paused_by_site=True)
    shown = view(federation)
    assert (shown.phase, shown.run_id, shown.round_number) == ("training", federation.run_id, 1)
    assert (shown.progress, shown.waiting, shown.paused_by_site) == (progress, "for data", True)
    assert shown.health == "online"
    assert federation.statuses()["node-a"] == "training"


def test_a_heartbeat_that_changes_no_status_wakes_nobody(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    site.uploading(wish, 1)
    generation = federation.alliance.kernel.notifier.generation
    for done in (2, 3):
        federation.alliance.clock.advance(10)
        site.uploading(wish, done)
    site.heartbeat(NodePhase.IDLE)
    assert federation.alliance.kernel.notifier.generation == generation


def test_the_participation_follows_the_phase_of_its_round(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    seen = []
    for phase in (NodePhase.TRAINING, NodePhase.CHECKPOINTING, NodePhase.UPLOADING, NodePhase.FAILED):
        site.heartbeat(phase, wish, failure="no_space: free some" if phase is NodePhase.FAILED else None)
        seen.append(federation.statuses()["node-a"])
    assert seen == ["training", "training", "uploading", "failed(no_space: free some)"]
    site.heartbeat(NodePhase.TRAINING, wish)  # its site has retried
    assert federation.statuses()["node-a"] == "training"


def test_heartbeats_of_any_phase_are_taken_in_any_round(federation: Federation) -> None:
    federation.begin()
    for phase in NodePhase:
        for site, wish in federation.wishes():
            assert site.heartbeat(phase, wish).is_success
            assert site.heartbeat(phase, wish.model_copy(update={"round_number": 99})).is_success
            assert site.heartbeat(phase, wish.model_copy(update={"run_id": "run-unknown"})).is_success
        assert set(federation.statuses().values()) <= {"assigned", "failed(failed)"}


def test_the_newest_round_shows_how_far_each_member_is(federation: Federation) -> None:
    """ "uploading 41 of 95 MB, 3.2 MB/s, attempt 2": what the command line makes of it."""
    federation.begin().to_round(2)
    site = federation["node-a"]
    progress = Progress(unit="bytes", done=41_000_000, total=95_000_000, rate_per_s=3.2e6, attempt=2)
    site.heartbeat(NodePhase.UPLOADING, site.assignment(), progress=progress)
    shown = {one.node_id: (one.phase, one.progress) for one in federation.round().participations}
    assert shown["node-a"] == (NodePhase.UPLOADING, progress)
    assert shown["node-b"] == (None, None)
    assert {one.progress for one in federation.round(1).participations} == {None}


def test_an_agent_that_knows_no_rates_is_heard(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    where = {"run_id": federation.run_id, "round_number": 1}
    body = {"phase": "uploading", **where, "progress": {"unit": "bytes", "done": 1, "total": 2, "attempt": 1}}
    headers = site.speaker.headers
    assert federation.alliance.http.post(f"{API}/node/heartbeat", json=body, headers=headers).is_success
    shown = view(federation).progress
    assert shown is not None
    assert shown.rate_per_s is None
