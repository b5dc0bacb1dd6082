"""The scenario tables against the published sizes (methods.md 1.2 to 1.7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hsl_study.scenarios import (
    LABEL_RATIOS,
    MURA_COUNTS,
    QUANTITY_RATIOS,
    NodeTable,
    Scenario,
    combined,
    feature_skew,
    label_skew,
    quantity_skew,
    real_world,
    scaled,
    split_by_class,
    split_by_node,
)


def sizes(scenario: Scenario, split: str) -> list[int]:
    return [sum(node.splits[split]) for node in scenario.nodes]  # type: ignore[index]


def test_feature_skew() -> None:
    scenario = feature_skew(MURA_COUNTS)
    assert len(scenario.nodes) == 7
    for node in scenario.nodes:
        assert node.splits == {"training": (441, 441), "validation": (74, 74), "test": (220, 220)}


LABEL_TABLE = {
    2: (2647, 1323, 794, 132, 397),
    4: (3176, 794, 476, 80, 238),
    6: (3403, 567, 340, 57, 170),
    8: (3529, 441, 265, 44, 132),
    10: (3609, 361, 217, 36, 108),
    20: (3781, 189, 113, 19, 57),
    40: (3873, 97, 58, 10, 29),
    60: (3905, 65, 39, 7, 19),
    80: (3921, 49, 29, 5, 15),
    100: (3931, 39, 23, 4, 12),
}


@pytest.mark.parametrize("ratio", LABEL_RATIOS)
def test_label_skew(ratio: int) -> None:
    balanced, skewed = label_skew(ratio, "XR_SHOULDER").nodes
    negative, positive, *splits = LABEL_TABLE[ratio]
    assert balanced.counts == (1985, 1985)
    assert skewed.counts == (negative, positive)
    assert [skewed.splits[split][1] for split in ("training", "validation", "test")] == splits
    # published: 1191 at both. By class the halves of 1985 tie, and ties go to validation (595 + 595).
    assert balanced.splits["test"] == (595, 595)
    assert abs(sum(skewed.splits["test"]) - 1191) <= 1


QUANTITY_TABLE = {
    1: (4339, 4339, 1301, 1301),
    2: (2893, 5785, 867, 1735),
    4: (1736, 6942, 520, 2082),
    6: (1240, 7438, 372, 2231),
    8: (964, 7714, 289, 2314),
    10: (789, 7889, 236, 2366),
    20: (413, 8265, 123, 2479),
    40: (212, 8466, 63, 2539),
    60: (142, 8536, 42, 2560),
    80: (107, 8571, 32, 2571),
}


@pytest.mark.parametrize("ratio", QUANTITY_RATIOS)
def test_quantity_skew(ratio: int) -> None:
    scenario = quantity_skew(ratio, "XR_SHOULDER")
    small, large, *tests = QUANTITY_TABLE[ratio]
    assert [sum(node.counts) for node in scenario.nodes] == [small, large]
    assert sizes(scenario, "test") == tests
    for node in scenario.nodes:
        assert abs(node.counts[0] - node.counts[1]) <= 1
    negative, positive = (sum(node.counts[label] for node in scenario.nodes) for label in (0, 1))
    assert negative <= 4394
    assert positive <= 4340, "the nodes are disjoint, so the pool must hold them both"


def test_combined() -> None:
    scenario = combined()
    assert [node.counts for node in scenario.nodes] == [(3098, 31), (22, 2197), (100, 100), (100, 100), (14259, 7)]
    assert sizes(scenario, "test") == [938, 665, 60, 60, 4279]
    rare = scenario.nodes[-1]
    assert [rare.splits[split][1] for split in ("training", "validation", "test")] == [4, 1, 2]
    assert scenario.inferred
    used = {domain: [0, 0] for domain in MURA_COUNTS}
    for node in scenario.nodes:
        for domain, counts in node.parts.items():
            for label in (0, 1):
                used[domain][label] += counts[label]
    for domain, counts in used.items():
        assert counts[0] <= MURA_COUNTS[domain][0]
        assert counts[1] <= MURA_COUNTS[domain][1]


def test_real_world() -> None:
    scenario = real_world()
    expected = {"test": [3471, 514, 1943, 520, 126], "validation": [1157, 171, 647, 173, 42]}
    expected["training"] = [6943, 1031, 3888, 1042, 254]
    assert {split: sizes(scenario, split) for split in expected} == expected


def test_a_scaled_scenario_keeps_its_shape() -> None:
    small = scaled(combined(), 1, 5)
    assert [sum(node.counts) for node in small.nodes] == [626, 443, 40, 40, 2853]
    assert [node.counts[1] for node in small.nodes] == [6, 439, 20, 20, 1]
    assert sum(sum(node.counts) for node in real_world(1000).nodes) == pytest.approx(1000, abs=5)
    with pytest.raises(ValueError, match="between 1 and 21922"):
        real_world(50_000)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_splits_add_up_and_no_class_is_missing_where_it_can_be_had(negative: int, positive: int) -> None:
    for rule in (split_by_class, split_by_node):
        splits = rule((negative, positive))
        for label, count in enumerate((negative, positive)):
            assert sum(counts[label] for counts in splits.values()) == count
            assert all(counts[label] >= 0 for counts in splits.values())
    if min(negative, positive) >= 3 and negative + positive >= 20:
        assert all(min(counts) >= 1 for counts in split_by_node((negative, positive)).values())


def test_a_node_whose_domains_do_not_give_its_images_is_refused() -> None:
    with pytest.raises(ValidationError, match="the domains give"):
        NodeTable(node_id="a", splits=split_by_class((10, 10)), parts={"hand": (9, 10)})
