"""`decide` as a table: journal row, what is wanted, and what to do."""

from datetime import UTC, datetime
from typing import Any

import pytest

from hsl_model.protocol.manifest import SignedManifest, UpdateManifest, UpdateMetrics
from hsl_model.protocol.messages import (
    Assignment,
    DesiredState,
    FusedFile,
    FusionPlan,
    PlanEntry,
    Recovery,
    RosterEntry,
)
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import PHASE_TRANSITIONS, NodePhase, ParticipationStatus, RoundStatus, RunStatus
from node_agent.errors import Failure
from node_agent.facts import RoundFacts, UpdateFacts
from node_agent.journal import PhaseRow
from node_agent.reconcile import Decision, Hold, Move, Proceed, Wish, decide, situation
from tests.node_agent.alliance import AGENT, PEER, RUN, make_config

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
SHA = {name: name * 64 for name in "abcdef"}
ROSTER = (RosterEntry(node_id=PEER, signing_public_key="k"),)
START = FusedFile(round_number=2, fused_digest=SHA["a"], file_sha256=SHA["b"], file_bytes=10)
CONTRIBUTING = [NodePhase.TRAINING, NodePhase.CHECKPOINTING, NodePhase.UPLOADING, NodePhase.ANNOUNCING]
COLLECTING = [NodePhase.DOWNLOADING, NodePhase.VERIFYING, NodePhase.FUSING, NodePhase.ADOPTING]
WORKING = [*CONTRIBUTING, NodePhase.WAITING, *COLLECTING]


def plan(version: int = 1, *nodes: str) -> FusionPlan:
    entries = tuple(
        PlanEntry(
            node_id=node, update_sha256=SHA["c"], update_bytes=1, manifest_sha256=SHA["d"], weight=1.0, num_cases=5
        )
        for node in nodes or (PEER,)
    )
    return FusionPlan(run_id=RUN, round_number=3, version=version, entries=entries)


def assigned(**changes: Any) -> Assignment:
    given: dict[str, Any] = {
        "run_id": RUN,
        "run_status": RunStatus.RUNNING,
        "config": make_config(),
        "members": (AGENT, PEER),
        "round_number": 3,
        "round_status": RoundStatus.OPEN,
        "participation": ParticipationStatus.ASSIGNED,
        "start": START,
        "waiting": "hospital-b trains since 10 minutes.",
    }
    return Assignment(**{**given, **changes})


def desired(assignment: Assignment | None = None, finished: tuple[str, ...] = ()) -> DesiredState:
    return DesiredState(version="v", roster=ROSTER, assignment=assignment, finished_runs=finished)


def facts(**changes: Any) -> RoundFacts:
    given: dict[str, Any] = {"run_id": RUN, "round_number": 3, "config": make_config(), "start": START}
    return RoundFacts(**{**given, **changes})


def row(phase: NodePhase, kept: RoundFacts | None = None, **changes: Any) -> PhaseRow:
    return PhaseRow(phase=phase, facts=kept, since=SINCE, **changes)


def wish(assignment: Assignment | None = None, **changes: Any) -> Wish:
    finished = changes.pop("finished", ())
    return Wish(AGENT, desired(assignment, finished), **changes)


def update(sha256: str = SHA["e"]) -> UpdateFacts:
    metrics = UpdateMetrics(validation_auc=0.5, shared_epoch=1, num_steps=1)
    return UpdateFacts(sha256=sha256, num_bytes=5, metrics=metrics, num_cases=5)


def signed() -> SignedManifest:
    manifest = UpdateManifest(
        run_id=RUN,
        round_number=3,
        node_id=AGENT,
        update_sha256=SHA["e"],
        update_bytes=5,
        tensors=(),
        start_digest=SHA["a"],
        num_cases=5,
        metrics=update().metrics,
    )
    return SignedManifest(manifest=manifest, signature="s")


def moved(decision: Decision) -> tuple[NodePhase, RoundFacts | None]:
    assert isinstance(decision, Move), decision
    return decision.phase, decision.facts


# --- taking up a round -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, NodePhase.TRAINING),
        ({"round_number": 0, "is_initialiser": True, "start": None}, NodePhase.CHECKPOINTING),
        ({"round_number": 0, "start": None}, NodePhase.WAITING),
        ({"accepted_sha256": SHA["c"]}, NodePhase.WAITING),  # an empty disk: this node announced in an earlier life
        ({"plan": plan(), "round_status": RoundStatus.FUSING}, NodePhase.WAITING),  # late
        ({"participation": ParticipationStatus.EXCLUDED, "participation_reason": "late"}, NodePhase.WAITING),
        ({"round_number": 0, "is_initialiser": True, "accepted_sha256": SHA["c"]}, NodePhase.WAITING),
        (
            {"plan": plan(), "run_status": RunStatus.COMPLETED},
            NodePhase.WAITING,
        ),  # the last model of a run that is over
        ({"participation": ParticipationStatus.FAILED}, NodePhase.TRAINING),  # it failed before, and is asked again
    ],
)
@pytest.mark.parametrize("kept", [None, facts(round_number=2)])
def test_a_round_is_taken_up_where_this_node_can_still_contribute(
    changes: dict[str, Any], phase: NodePhase, kept: RoundFacts | None
) -> None:
    if kept is not None and changes.get("round_number") == 0:
        kept = facts(run_id="another-run")
    taken, begun = moved(decide(row(NodePhase.IDLE, kept), wish(assigned(**changes))))
    assert taken is phase
    assert begun is not None
    assert begun.key == (RUN, changes.get("round_number", 3))
    assert begun.update is None


def test_a_late_node_knows_why_its_update_is_not_in_the_round() -> None:
    _, begun = moved(decide(row(NodePhase.IDLE), wish(assigned(plan=plan()))))
    assert begun is not None
    assert begun.left_out == "late"


@pytest.mark.parametrize(
    "given",
    [
        Wish(AGENT, None),
        wish(None),
        wish(assigned(run_status=RunStatus.PAUSED)),
        wish(assigned(), paused_by_site=True),
        wish(assigned(run_status=RunStatus.STOPPED)),
        wish(assigned(run_status=RunStatus.STOPPED, plan=plan())),
        wish(assigned(run_status=RunStatus.COMPLETED)),
        wish(assigned(round_status=RoundStatus.COMPLETED)),
        wish(assigned(), revoked=True),
    ],
)
def test_no_round_is_taken_up_without_work_while_paused_or_revoked(given: Wish) -> None:
    decision = decide(row(NodePhase.IDLE), given)
    assert isinstance(decision, Hold)
    assert decision.reason.endswith((".", ";"))


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [*WORKING, NodePhase.FAILED])
@pytest.mark.parametrize(
    "given",
    [
        wish(None),  # stopped: there is no work any more
        wish(None, finished=(RUN,)),  # stopped, completed or withdrawn
        wish(assigned(run_id="run-2"), finished=(RUN,)),
        wish(assigned(), revoked=True),
        wish(assigned(run_id="run-2")),
        wish(assigned(round_number=4)),
        wish(assigned(run_status=RunStatus.STOPPED, plan=plan())),
        wish(assigned(run_status=RunStatus.FAILED)),
    ],
    ids=["no work", "finished", "finished, other work", "revoked", "another run", "a newer round", "stopped", "failed"],
)
def test_from_any_phase_to_idle_when_the_round_is_over_for_this_node(phase: NodePhase, given: Wish) -> None:
    assert decide(row(phase, facts()), given) == Move(NodePhase.IDLE, None)


def test_an_adopted_round_is_remembered_until_the_run_is_finished() -> None:
    assert isinstance(decide(row(NodePhase.IDLE, facts()), wish(None)), Hold)
    assert decide(row(NodePhase.IDLE, facts()), wish(None, finished=(RUN,))) == Move(NodePhase.IDLE, None)


@pytest.mark.parametrize("phase", WORKING)
def test_without_a_coordinator_the_work_goes_on(phase: NodePhase) -> None:
    assert decide(row(phase, facts()), Wish(AGENT, None)) == Proceed()


def test_an_older_desired_state_never_undoes_a_newer_round() -> None:
    for phase in (NodePhase.IDLE, NodePhase.TRAINING):
        assert isinstance(decide(row(phase, facts(round_number=4)), wish(assigned(round_number=3))), Hold)


# --- pause -----------------------------------------------------------------------------------------------------------

PAUSES = [wish(assigned(run_status=RunStatus.PAUSED)), wish(assigned(), paused_by_site=True)]


@pytest.mark.parametrize("given", PAUSES, ids=["by the coordinator", "by the site"])
def test_a_pause_stops_training_and_nothing_else(given: Wish) -> None:
    assert isinstance(decide(row(NodePhase.TRAINING, facts()), given), Hold)
    for phase in (set(WORKING) - {NodePhase.TRAINING}) - {NodePhase.IDLE}:
        assert decide(row(phase, facts(planned=None)), given) == Proceed()


def test_after_a_pause_training_goes_on() -> None:
    assert decide(row(NodePhase.TRAINING, facts()), wish(assigned())) == Proceed()


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", CONTRIBUTING)
def test_a_plan_frozen_without_this_node_makes_it_late(phase: NodePhase) -> None:
    taken, late = moved(decide(row(phase, facts(update=update())), wish(assigned(plan=plan()))))
    assert taken is NodePhase.DOWNLOADING
    assert late is not None
    assert late.left_out == "late"
    assert late.planned is not None
    assert late.planned.roster == ROSTER


@pytest.mark.parametrize("phase", [NodePhase.UPLOADING, NodePhase.ANNOUNCING])
def test_an_accepted_update_is_announced_to_its_end_although_the_plan_is_there(phase: NodePhase) -> None:
    """The announce was heard and its reply was lost: announcing again gives the same answer."""
    mine = assigned(plan=plan(1, AGENT, PEER), accepted_sha256=SHA["e"])
    assert decide(row(phase, facts(update=update(SHA["e"]))), wish(mine)) == Proceed()


def test_another_update_that_was_accepted_earlier_counts() -> None:
    mine = assigned(accepted_sha256=SHA["c"])
    taken, kept = moved(decide(row(NodePhase.ANNOUNCING, facts(update=update(SHA["e"]))), wish(mine)))
    assert taken is NodePhase.WAITING
    assert kept is not None
    assert kept.accepted_sha256 == SHA["c"]
    assert decide(row(NodePhase.TRAINING, facts()), wish(mine)) == Move(NodePhase.IDLE, None)  # and then to WAITING


@pytest.mark.parametrize("phase", CONTRIBUTING)
def test_excluded_before_the_freeze_there_is_nothing_to_contribute(phase: NodePhase) -> None:
    gone = assigned(participation=ParticipationStatus.EXCLUDED, participation_reason="refused")
    taken, _ = moved(decide(row(phase, facts(update=update())), wish(gone)))
    assert taken is (NodePhase.WAITING if phase is NodePhase.ANNOUNCING else NodePhase.IDLE)


def test_waiting_ends_with_the_plan() -> None:
    waiting = row(NodePhase.WAITING, facts())
    assert decide(waiting, wish(assigned())) == Proceed()
    taken, planned = moved(decide(waiting, wish(assigned(plan=plan(1, AGENT, PEER), accepted_sha256=SHA["e"]))))
    assert taken is NodePhase.DOWNLOADING
    assert planned is not None
    assert planned.plan.version == 1


def test_the_next_first_member_builds_the_initial_weights() -> None:
    waiting = row(NodePhase.WAITING, facts(round_number=0, start=None))
    now = assigned(round_number=0, start=None, is_initialiser=True)
    assert decide(waiting, wish(now)) == Move(NodePhase.IDLE, None)
    done = facts(round_number=0, start=None, is_initialiser=True, accepted_sha256=SHA["c"])
    assert decide(row(NodePhase.WAITING, done), wish(now)) == Proceed()


@pytest.mark.parametrize("phase", [*COLLECTING, NodePhase.IDLE])
@pytest.mark.parametrize(
    ("newest", "redo"), [(plan(2), 0), (plan(1), 1), (plan(3), 0)], ids=["version 2", "fuse once more", "version 3"]
)
def test_a_newer_plan_or_a_repeated_fusion_starts_with_downloading(
    phase: NodePhase, newest: FusionPlan, redo: int
) -> None:
    old = facts().with_plan(plan(1, AGENT, PEER), ROSTER, 0)
    taken, renewed = moved(decide(row(phase, old), wish(assigned(plan=newest, redo_fusion=redo))))
    assert taken is NodePhase.DOWNLOADING
    assert renewed is not None
    assert (renewed.plan, renewed.planned and renewed.planned.redo, renewed.fused) == (newest, redo, None)


@pytest.mark.parametrize("phase", COLLECTING)
@pytest.mark.parametrize("now", [{"plan": plan(1)}, {"plan": plan(2)}, {}], ids=["older", "same", "none"])
def test_the_same_or_an_older_plan_changes_nothing(phase: NodePhase, now: dict[str, Any]) -> None:
    kept = facts().with_plan(plan(2), ROSTER, 0)
    assert decide(row(phase, kept), wish(assigned(**now))) == Proceed()


def test_an_adopted_round_waits_for_the_others() -> None:
    kept = facts().with_plan(plan(1), ROSTER, 0)
    decision = decide(row(NodePhase.IDLE, kept), wish(assigned(plan=plan(1))))
    assert decision == Hold("hospital-b trains since 10 minutes.")


# --- failed ----------------------------------------------------------------------------------------------------------


def failed_row(at: Assignment | None) -> PhaseRow:
    return row(
        NodePhase.FAILED,
        facts(update=update()),
        failure=Failure(FailureKind.REJECTED, "class_missing", "No image of class fracture was found."),
        failed_phase=NodePhase.TRAINING,
        failed_situation=situation(desired(at)),
    )


def test_a_failed_phase_waits_until_something_else_is_wanted() -> None:
    failed = failed_row(assigned())
    assert decide(failed, wish(assigned())) == Hold("No image of class fracture was found.")
    assert decide(failed, Wish(AGENT, None)) == Hold("No image of class fracture was found.")
    heard = assigned(participation=ParticipationStatus.FAILED)  # its own failure, told back to it, is no news
    assert isinstance(decide(failed, wish(heard)), Hold)
    for news in ({"plan": plan()}, {"run_status": RunStatus.PAUSED}, {"redo_fusion": 1}):
        assert decide(failed, wish(assigned(**news))) == Move(NodePhase.TRAINING, failed.facts)


# --- every move is one that the transition table knows ---------------------------------------------------------------


def test_no_decision_breaks_the_transition_table() -> None:
    wishes = [
        wish(assigned(**changes), paused_by_site=paused)
        for paused in (False, True)
        for changes in (
            {},
            {"plan": plan(2)},
            {"plan": plan(1, AGENT), "accepted_sha256": SHA["e"]},
            {"accepted_sha256": SHA["c"]},
            {"participation": ParticipationStatus.EXCLUDED},
            {"round_number": 4},
            {"redo_fusion": 2, "plan": plan(1)},
            {"run_status": RunStatus.PAUSED},
        )
    ]
    kept = [facts(), facts(update=update()), facts().with_plan(plan(1), ROSTER, 0)]
    for phase in (NodePhase.IDLE, *WORKING):
        for one in kept:
            for given in (*wishes, wish(None), Wish(AGENT, None), wish(None, finished=(RUN,))):
                decision = decide(row(phase, one), given)
                if isinstance(decision, Move) and decision.phase is not phase:
                    assert decision.phase in PHASE_TRANSITIONS[phase], (phase, decision.phase)


# --- a ledger that was restored from a backup ------------------------------------------------------------------------


def recovered(assignment: Assignment) -> Wish:
    return Wish(AGENT, desired(assignment).model_copy(update={"generation": 2}))


@pytest.mark.parametrize("phase", [*WORKING, NodePhase.IDLE])
def test_while_the_ledger_is_held_a_node_keeps_what_it_has(phase: NodePhase) -> None:
    """The restored ledger does not know this run: left to itself, the node would drop its work."""
    restored = desired(None, finished=(RUN,)).model_copy(
        update={"recovery": Recovery(sentence="It was restored.", records_from={})}
    )
    assert decide(row(phase, facts()), Wish(AGENT, restored)) == Hold("It was restored.")


@pytest.mark.parametrize("phase", CONTRIBUTING)
def test_a_contribution_under_way_goes_on_after_the_recovery(phase: NodePhase) -> None:
    assert moved(decide(row(phase, facts(update=update())), recovered(assigned()))) == (
        phase,
        facts(update=update(), generation=2),
    )


@pytest.mark.parametrize("phase", [NodePhase.WAITING, *COLLECTING, NodePhase.IDLE])
def test_an_update_that_the_ledger_forgot_is_announced_again_and_not_made_again(phase: NodePhase) -> None:
    kept = facts(update=update(), signed=signed(), accepted_sha256=SHA["e"]).with_plan(plan(), ROSTER, 0)
    assert moved(decide(row(phase, kept), recovered(assigned()))) == (
        NodePhase.ANNOUNCING,
        facts(update=update(), signed=signed(), generation=2),
    )
    assert phase is NodePhase.ANNOUNCING or NodePhase.ANNOUNCING in PHASE_TRANSITIONS[phase]


@pytest.mark.parametrize("phase", [*COLLECTING, NodePhase.IDLE])
def test_a_round_that_the_ledger_has_with_the_same_plan_goes_on(phase: NodePhase) -> None:
    kept = facts(signed=signed()).with_plan(plan(), ROSTER, 0)
    for status in (RoundStatus.FUSING, RoundStatus.COMPLETED):
        wanted = recovered(assigned(plan=plan(), round_status=status))
        assert moved(decide(row(phase, kept), wanted)) == (phase, kept.model_copy(update={"generation": 2}))


def test_an_older_plan_of_the_restored_ledger_is_fused() -> None:
    kept = facts(signed=signed()).with_plan(plan(2), ROSTER, 0)
    phase, taken = moved(decide(row(NodePhase.ADOPTING, kept), recovered(assigned(plan=plan(1)))))
    assert (phase, taken and taken.plan.version, taken and taken.generation) == (NodePhase.DOWNLOADING, 1, 2)


@pytest.mark.parametrize("phase", WORKING)
def test_the_round_after_a_replayed_one_is_waited_for(phase: NodePhase) -> None:
    before = assigned(round_number=2, round_status=RoundStatus.COMPLETED, run_status=RunStatus.PAUSED, plan=plan())
    assert decide(row(phase, facts()), recovered(before)) == Hold("hospital-b trains since 10 minutes.")


@pytest.mark.parametrize(
    "changes",
    [
        {"round_number": 2},  # it goes on two rounds before: nobody could prove the one between
        {"round_number": 1, "round_status": RoundStatus.COMPLETED},
        {"start": START.model_copy(update={"file_sha256": SHA["f"]})},
        {"run_id": "run-2"},
    ],
)
def test_what_does_not_follow_from_the_recovered_ledger_is_left(changes: dict[str, Any]) -> None:
    assert moved(decide(row(NodePhase.TRAINING, facts()), recovered(assigned(**changes)))) == (NodePhase.IDLE, None)


def test_a_round_begun_after_the_recovery_belongs_to_its_generation() -> None:
    phase, taken = moved(decide(row(NodePhase.IDLE), recovered(assigned())))
    assert (phase, taken and taken.generation) == (NodePhase.TRAINING, 2)
    assert decide(row(NodePhase.TRAINING, taken), recovered(assigned())) == Proceed()
