"""When a run ends by itself, and which round is deployed."""

import pytest

from tests.coordinator.rounds.sites import Federation

FLAT = (0.5, 0.6, 0.7, 0.701, 0.702, 0.703, 0.704, 0.705, 0.706)


def test_three_plateaus_end_the_run_but_never_before_six_rounds(federation: Federation) -> None:
    federation.begin(num_rounds=20, convergence={"enabled": True})
    played = 0
    for auc in FLAT:
        federation.play_round(auc)
        played += 1
        if federation.run.status != "running":
            break
    run = federation.run
    assert (played, run.status, run.round_number) == (7, "completed", 6)  # rounds 0 to 6; plateaus 3, 4, 5 and 6
    assert run.reason is not None
    assert run.reason.startswith("converged")
    assert (run.best_round, run.best_mean_auc) == (6, pytest.approx(0.704))


def test_an_improvement_begins_the_count_anew(federation: Federation) -> None:
    federation.begin(num_rounds=20, convergence={"enabled": True, "min_rounds": 1, "patience": 2})
    for auc in (0.5, 0.6, 0.601, 0.7, 0.701):
        federation.play_round(auc)
        assert federation.run.status == "running"
    federation.play_round(0.702)
    assert federation.run.status == "completed"


def test_the_earliest_of_equally_good_rounds_is_deployed(federation: Federation) -> None:
    federation.begin(num_rounds=3)
    for auc in (0.9, 0.7, 0.8, 0.8):
        federation.play_round(auc)
    assert federation.run.best_round == 2  # not round 0: the initial weights are no fusion
