"""The statistics against definitions, hand-computed numbers and simulated truths."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hsl_model.metrics import roc_auc
from hsl_study.statistics import (
    ArmScores,
    Interval,
    Panel,
    group_weights,
    holm,
    mean_and_sd,
    node_metrics,
    paired_difference,
    pooled_bootstrap,
    smallest_detectable,
    two_way_bootstrap,
    two_way_panels,
    weighted_aucs,
)

Bootstrap = Callable[..., Interval]
LABELS = np.array([0, 0, 1, 1, 0, 1, 0, 1], np.uint8)
GROUPS = np.arange(8)


def scores(*rows: list[float], labels: np.ndarray = LABELS, groups: np.ndarray = GROUPS) -> ArmScores:
    return ArmScores(np.array(rows, np.float32), labels, groups)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30).filter(
        lambda cases: {label for _, label, weight in cases if weight} == {True, False}
    )
)
def test_a_weighted_auc_is_the_auc_of_repeated_images(cases: list[tuple[int, bool, int]]) -> None:
    values = np.array([value for value, _, _ in cases], np.float32)
    labels = np.array([label for _, label, _ in cases], np.uint8)
    weights = np.array([weight for _, _, weight in cases])
    repeated = roc_auc(np.repeat(values, weights), np.repeat(labels, weights))
    assert weighted_aucs(values, labels, weights[None].astype(float))[0] == pytest.approx(repeated, abs=1e-12)


def test_a_resample_without_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="without one of the classes"):
        weighted_aucs(np.array([0.0, 1.0], np.float32), np.array([0, 1], np.uint8), np.array([[2.0, 0.0]]))


def test_metrics_by_hand() -> None:
    found = node_metrics(np.array([-2, -1, 1, 2, 3], np.float32), np.array([0, 1, 0, 1, 1], np.uint8))
    assert (found.num_positive, found.num_negative) == (3, 2)
    assert found.auc == pytest.approx(5 / 6)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 3)
    # ranked 3, 2, 1, -1, -2 with labels 1, 1, 0, 1, 0: precision 1, 1 and 3/4 where a positive is met
    assert found.auprc == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_what_is_undefined_is_none() -> None:
    found = node_metrics(np.array([-2, -1], np.float32), np.array([0, 0], np.uint8))
    assert (found.auc, found.auprc, found.recall, found.precision) == (None, None, None, None)
    assert found.accuracy == 1.0
    assert node_metrics(np.empty(0, np.float32), np.empty(0, np.uint8)).accuracy is None
    assert mean_and_sd([0.5]) == (0.5, None)


def test_the_paired_difference_is_the_one_sample_t_test() -> None:
    first, second = {0: 0.71, 1: 0.69, 2: 0.75, 3: 0.7}, {0: 0.7, 1: 0.66, 2: 0.74, 3: 0.71, 9: 0.1}
    found = paired_difference(first, second)
    differences = [first[seed] - second[seed] for seed in range(4)]
    expected = stats.ttest_1samp(differences, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.estimate == pytest.approx(np.mean(differences))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_equal_arms_differ_by_exactly_nothing() -> None:
    assert paired_difference({0: 0.7, 1: 0.8}, {0: 0.7, 1: 0.8}).p_value == 1.0
    with pytest.raises(ValueError, match="at least two seeds"):
        paired_difference({0: 0.7}, {0: 0.6})


def test_the_smallest_detectable_difference_is_found_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    true = smallest_detectable(sd=0.01, num_seeds=10)
    found = stats.ttest_1samp(random.normal(true, 0.01, (4000, 10)), 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.05)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_groups_are_drawn_whole_and_every_resample_has_both_classes() -> None:
    labels = np.array([0] * 20 + [1], np.uint8)
    groups = np.array([0, 0, 0, *range(1, 18), 99])
    weights = group_weights(labels, groups, 500, np.random.default_rng(1))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, -1] == 1).all(), "the only positive group is drawn once for its one place"
    assert weights[:, 0].var() > 0
    number_of_groups = weights[:, 0] + weights[:, 3:20].sum(axis=1)
    assert (number_of_groups == 18).all()


def test_a_dominating_arm_reaches_the_smallest_p_and_the_order_of_arms_only_turns_the_sign() -> None:
    good, bad = scores([0, 1, 9, 8, 2, 7, 1, 9]), scores([9, 8, 0, 1, 7, 2, 8, 0])
    found, turned = pooled_bootstrap(good, bad), pooled_bootstrap(bad, good)
    assert found.p_value == turned.p_value == pytest.approx(2 / 1001)
    assert (found.estimate, found.low, found.high) == (-turned.estimate, -turned.high, -turned.low)
    assert two_way_bootstrap(good, bad, num_resamples=999).p_value == pytest.approx(2 / 1000)


@pytest.mark.parametrize("bootstrap", [two_way_bootstrap, pooled_bootstrap])
def test_both_arms_are_drawn_alike_so_an_arm_never_differs_from_itself(bootstrap: Bootstrap) -> None:
    arm = scores([3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3])
    assert bootstrap(arm, arm, num_resamples=50) == Interval(0.0, 0.0, 0.0, 1.0)


def test_p_values_are_uniform_where_scores_differ_by_nothing_but_noise() -> None:
    """methods.md 6.4. One training, so that the images are all that is drawn and the pooled bootstrap is right."""
    random = np.random.default_rng(11)
    labels = (np.arange(80) % 2).astype(np.uint8)
    found = []
    for study in range(150):
        common = random.normal(0, 1, 80) + labels
        arms = [(common + random.normal(0, 1, 80)).astype(np.float32) for _ in range(2)]
        first, second = (ArmScores(arm[None], labels, np.arange(80)) for arm in arms)
        found.append(pooled_bootstrap(first, second, 200, study).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) > 0.5) == pytest.approx(0.5, abs=0.12)


def test_arms_of_other_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same images"):
        two_way_bootstrap(scores([0.0] * 8), scores([0.0] * 8, groups=GROUPS + 1))
    with pytest.raises(ValueError, match="labels"):
        ArmScores(np.zeros((1, 3), np.float32), LABELS, GROUPS)


def simulated(random: np.random.Generator, num_seeds: int, num_images: int, training_sd: float) -> ArmScores:
    """Scores whose AUC shifts from seed to seed, as trainings do, on images of one draw."""
    labels = (np.arange(num_images) % 2).astype(np.uint8)
    image = random.normal(0, 1, num_images)
    strength = random.normal(1.0, training_sd, num_seeds)
    logits = strength[:, None] * labels[None] + image[None] + random.normal(0, 0.3, (num_seeds, num_images))
    return ArmScores(logits.astype(np.float32), labels, np.arange(num_images))


def test_under_no_difference_the_two_way_bootstrap_keeps_its_level_and_the_pooled_one_does_not() -> None:
    """Two arms whose trainings are draws of one distribution: rejecting them is an error. The pooled bootstrap sees
    only the images' noise; with trainings this noisy it finds a difference in most cases."""
    random = np.random.default_rng(5)
    wrong = {"two-way": 0, "pooled": 0}
    num_studies = 60
    for study in range(num_studies):
        first = simulated(random, 8, 120, 0.4)
        noise = random.normal(1.0, 0.4, 8)[:, None] * first.labels[None] + random.normal(0, 0.3, (8, 120))
        image = first.logits.mean(axis=0) - first.logits.mean(axis=0)[first.labels == 1].mean() * first.labels
        second = ArmScores((noise + image[None]).astype(np.float32), first.labels, first.groups)
        wrong["two-way"] += two_way_bootstrap(first, second, 400, study).p_value < 0.05
        wrong["pooled"] += pooled_bootstrap(first, second, 400, study).p_value < 0.05
    assert wrong["two-way"] <= 9, wrong
    assert wrong["pooled"] >= 15, wrong
    assert math.isfinite(sum(wrong.values()))


def test_seeds_with_images_of_their_own_are_compared_image_by_image() -> None:
    """Two seeds whose partitions differ: the estimate is the mean over seeds and nodes, and an image that both seeds
    tested on is drawn as one. With weights of one group in two panels, the resamples of both move together."""
    labels = np.array([0, 1, 0, 1], np.uint8)
    good, bad = np.array([0, 2, 1, 3], np.float32), np.array([2, 0, 1, 3], np.float32)
    seeds = [np.array([0, 1, 2, 3]), np.array([2, 3, 8, 9])]
    first = [[Panel(good, labels, groups)] for groups in seeds]
    second = [[Panel(bad, labels, groups)] for groups in seeds]
    found = two_way_panels(first, second, 300)
    assert found.estimate == pytest.approx(0.5)
    assert 0 < found.undefined < 0.5, "a seed's two positives may both be missing from a resample; that is told"
    assert two_way_panels(second, first, 300).estimate == pytest.approx(-0.5)


def test_a_node_without_a_class_does_not_count_and_all_without_are_refused() -> None:
    whole = Panel(np.array([0, 1], np.float32), LABELS[1:3], np.array([0, 1]))
    lacking = Panel(np.array([0, 1], np.float32), LABELS[:2], np.array([2, 3]))
    turned = Panel(-whole.logits, whole.labels, whole.groups)
    assert two_way_panels([[whole, lacking]], [[turned, lacking]], 50).estimate == 1.0
    with pytest.raises(ValueError, match="no AUC is defined"):
        two_way_panels([[lacking]], [[lacking]], 50)


def test_an_image_that_several_seeds_tested_on_is_drawn_once_for_all() -> None:
    """Four seeds with equal scores on the same images say no more than one; on different images they say more."""
    random = np.random.default_rng(2)
    labels = np.tile([0, 1], 20).astype(np.uint8)
    good, bad = (random.normal(0, 1, 40).astype(np.float32) + strength * labels for strength in (1.0, 0.3))

    def width(groups_of_seeds: list[np.ndarray]) -> float:
        first, second = ([[Panel(scores, labels, groups)] for groups in groups_of_seeds] for scores in (good, bad))
        found = two_way_panels(first, second, 2000)
        return found.high - found.low

    same = np.arange(40)
    assert width([same] * 4) == pytest.approx(width([same]), rel=0.05)
    assert width([same + 40 * seed for seed in range(4)]) < 0.85 * width([same])
