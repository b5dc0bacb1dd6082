from hsl_model.protocol.config import ConvergenceConfig
from hsl_model.protocol.convergence import best_round, num_plateaus, should_stop

PAPER = ConvergenceConfig()
RISING = [0.5, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85]


def test_goes_on_while_each_fusion_improves() -> None:
    assert should_stop(RISING, PAPER, 20) == (False, None)


def test_stops_after_three_plateaus_in_a_row() -> None:
    aucs = [*RISING, 0.8549, 0.85, 0.8549]
    assert should_stop(aucs[:-1], PAPER, 20) == (False, None)
    stop, reason = should_stop(aucs, PAPER, 20)
    assert stop
    assert reason == "converged: 3 fusions in a row improved the mean validation AUC by less than 0.005"


def test_an_improvement_of_exactly_the_minimum_starts_the_count_anew() -> None:
    assert num_plateaus([None, 0.5, 0.5, 0.5, 0.75], 0.25) == 0


def test_improvement_is_measured_from_the_best_round_so_far_not_from_the_last() -> None:
    assert num_plateaus([0.1, 0.80, 0.60, 0.70, 0.79], 0.005) == 3


def test_never_stops_before_six_fusions() -> None:
    flat: list[float | None] = [0.7] * 6  # round 0 and five fusions
    assert should_stop(flat, PAPER, 20) == (False, None)
    assert should_stop([*flat, 0.7], PAPER, 20)[0]


def test_round_zero_is_not_a_fusion_and_no_plateau() -> None:
    config = ConvergenceConfig(patience=1, min_rounds=1)
    assert should_stop([0.9], config, 20) == (False, None)
    assert should_stop([0.9, 0.5], config, 20) == (False, None)


def test_undefined_means_are_passed_over() -> None:
    assert num_plateaus([0.5, 0.8, 0.8, None, 0.8, None], 0.005) == 2
    assert should_stop([None] * 10, PAPER, 20) == (False, None)


def test_the_round_limit_holds_even_when_convergence_is_off() -> None:
    off = ConvergenceConfig(enabled=False)
    assert should_stop([0.5] * 20, off, 20) == (False, None)
    assert should_stop([0.5] * 21, off, 20) == (True, "reached its limit of 20 rounds")


def test_best_round_is_the_earliest_of_the_best_fusions() -> None:
    assert best_round([0.99, 0.6, 0.8, None, 0.8, 0.7]) == 2
    assert best_round([0.5, 0.0]) == 1


def test_without_a_fusion_the_initial_weights_are_the_best_there_is() -> None:
    assert best_round([]) == best_round([0.5]) == best_round([0.5, None]) == 0
