"""A node is revoked while a run goes on, in whatever phase: the others finish the round, and the record says why."""

import pytest

from hsl_model.protocol.states import NodePhase
from hsl_model.protocol.views import RoundView
from tests.coordinator.rounds.sites import Federation

GONE = "node-c"
BEFORE_THE_PLAN = (NodePhase.TRAINING, NodePhase.CHECKPOINTING, NodePhase.UPLOADING, NodePhase.ANNOUNCING)
WITH_A_PLAN = (NodePhase.DOWNLOADING, NodePhase.VERIFYING, NodePhase.FUSING, NodePhase.ADOPTING)
PHASES = (*BEFORE_THE_PLAN, NodePhase.WAITING, *WITH_A_PLAN, NodePhase.IDLE, NodePhase.FAILED)


def bring(federation: Federation, phase: NodePhase) -> None:
    """Round 1 with the node to be revoked in this phase."""
    site = federation.begin().to_round(1)[GONE]
    if phase is NodePhase.WAITING or phase in WITH_A_PLAN or phase is NodePhase.IDLE:
        site.ok(site.announce(site.assignment()))
    if phase in WITH_A_PLAN or phase is NodePhase.IDLE:
        federation.announce_all()
    wish = site.assignment()
    if phase is NodePhase.ADOPTING:
        site.ok(site.fusion(wish, validation=None))
    if phase is NodePhase.IDLE:  # it has adopted; the others still work on the round
        site.ok(site.fusion(wish))
    failure = "no_space: The disk is full." if phase is NodePhase.FAILED else None
    site.ok(site.heartbeat(phase, wish, failure=failure))


def names(found: RoundView) -> list[str]:
    return [entry.node_id for entry in found.plan.entries] if found.plan else []


@pytest.mark.parametrize("phase", PHASES)
def test_the_others_go_on_without_a_node_that_is_revoked_in_any_phase(federation: Federation, phase: NodePhase) -> None:
    bring(federation, phase)
    was_frozen = federation.round(1).plan
    federation.revoke(GONE)

    found = federation.round(1)
    assert federation.statuses(1)[GONE] == "excluded(revoked)"
    if was_frozen is None:
        assert found.plan is None
        federation.announce_all()
        found = federation.round(1)
    version = 1 if was_frozen is None else was_frozen.version + 1
    assert found.plan is not None
    assert (found.plan.version, names(found)) == (version, ["node-a", "node-b"])
    assert sum(entry.weight for entry in found.plan.entries) == pytest.approx(1.0)
    roster = [one.node_id for one in federation["node-a"].desired().roster]
    assert roster == ["node-a", "node-b"]

    federation.fuse_all()
    done = federation.round(1)
    assert done.status == "completed"
    record = {one.node_id: (one.status, one.reason) for one in done.participations}
    assert record == {"node-a": ("fused", None), "node-b": ("fused", None), GONE: ("excluded", "revoked")}
    assert {one.plan_version for one in done.participations if one.node_id != GONE} == {version}
    events = federation.alliance.events(round_number=1, node_id=GONE, kind="participation.excluded")
    assert [event.data["reason"] for event in events] == ["revoked"]

    federation.play_round()
    assert (federation.run.status, federation.round(2).status) == ("running", "completed")
    assert set(federation.statuses(2)) == {"node-a", "node-b"}
