import pytest

from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.weights import plan_weights


def test_uniform_weights_ignore_cases_and_are_in_sorted_order() -> None:
    weights = plan_weights("uniform", {"c": 1, "a": 1000, "b": 5})
    assert list(weights.items()) == [("a", 1 / 3), ("b", 1 / 3), ("c", 1 / 3)]


def test_weights_by_cases_are_shares_of_all_cases() -> None:
    weights = plan_weights("cases", {"b": 300, "a": 100})
    assert list(weights.items()) == [("a", 0.25), ("b", 0.75)]


def test_a_single_update_has_weight_one_exactly() -> None:
    assert plan_weights("uniform", {"a": 0}) == {"a": 1.0}
    assert plan_weights("cases", {"a": 7}) == {"a": 1.0}


@pytest.mark.parametrize("num_cases", [{}, {"a": 0, "b": 0}, {"a": 3, "b": -1}])
def test_impossible_cases_are_refused(num_cases: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        plan_weights("cases", num_cases)
