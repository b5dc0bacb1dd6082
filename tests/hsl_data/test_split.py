from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsl_data.split import SPLITS, Counts, Split, proportional_limits, quotas, split_groups, take_groups

SINGLE = st.dictionaries(st.text(max_size=4), st.sampled_from([(1, 0), (0, 1)]), max_size=80)
ANY_GROUPS = st.dictionaries(
    st.text(max_size=4), st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(sum), max_size=40
)
SEED = st.integers(0, 2**63 - 1)


def sizes(groups: dict[str, Counts], placed: dict[str, Split], label: int) -> dict[Split, int]:
    found = Counter(dict.fromkeys(SPLITS, 0))
    for key, split in placed.items():
        found[split] += groups[key][label]
    return dict(found)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (735, (441, 74, 220)),  # methods.md 1.2: the tie of 73.5 and 220.5 goes to validation
        (7, (4, 1, 2)),  # methods.md 1.5, the rare-disease region
        (1323, (794, 132, 397)),  # methods.md 1.3, column by column
        (97, (58, 10, 29)),
        (65, (39, 7, 19)),
        (39, (23, 4, 12)),
        (5, (3, 1, 1)),  # 3 / 0.5 / 1.5
        (3, (1, 1, 1)),  # 1.8 / 0.3 / 0.9 alone would leave validation empty
        (2, (1, 0, 1)),
        (1, (1, 0, 0)),
        (0, (0, 0, 0)),
    ],
)
def test_quotas_are_those_of_the_largest_remainder(count: int, expected: tuple[int, int, int]) -> None:
    assert quotas(count) == expected


@given(st.integers(0, 10**12))
def test_quotas_add_up_and_stay_within_one_image_of_the_share(count: int) -> None:
    found = quotas(count)
    assert sum(found) == count
    if count >= 10:
        assert all(abs(100 * size - count * share) < 100 for size, share in zip(found, (60, 10, 30), strict=True))


@given(SINGLE, SEED)
def test_single_images_meet_the_quotas_exactly(groups: dict[str, Counts], seed: int) -> None:
    placed = split_groups(groups, seed)
    assert placed.keys() == groups.keys()
    for label in (0, 1):
        expected = quotas(sum(counts[label] for counts in groups.values()))
        assert tuple(sizes(groups, placed, label).values()) == expected


@given(ANY_GROUPS, SEED, st.randoms())
def test_the_order_of_files_does_not_matter(groups: dict[str, Counts], seed: int, random: object) -> None:
    shuffled = list(groups.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_groups(dict(shuffled), seed) == split_groups(groups, seed)


@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(sum), min_size=1, max_size=6
    ),
    SEED,
)
def test_every_class_is_everywhere_when_any_placing_allows_it(groups: dict[str, Counts], seed: int) -> None:
    """Compared with all 3^n placings of the groups."""
    wanted = [label for label in (0, 1) if sum(counts[label] > 0 for counts in groups.values()) >= 3]

    def complete(placed: dict[str, Split]) -> bool:
        return all(sizes(groups, placed, label)[split] > 0 for label in wanted for split in SPLITS)

    if any(complete(dict(zip(groups, each, strict=True))) for each in product(SPLITS, repeat=len(groups))):
        assert complete(split_groups(groups, seed))


def test_seeds_give_different_splits_of_the_same_size() -> None:
    groups: dict[str, Counts] = {f"g{i}": (1, 0) for i in range(100)}
    first, second = split_groups(groups, 1), split_groups(groups, 2)
    assert first != second
    assert sizes(groups, first, 0) == sizes(groups, second, 0) == {"training": 60, "validation": 10, "test": 30}


def test_large_groups_land_in_every_split_and_overshoot_little() -> None:
    groups: dict[str, Counts] = {f"patient-{i}": ((i * 7) % 9 + 1, 0) for i in range(200)}
    found = sizes(groups, split_groups(groups, 0), 0)
    total = sum(found.values())
    for split, share in zip(SPLITS, (60, 10, 30), strict=True):
        assert abs(found[split] - total * share / 100) <= 1
    mean = {split: found[split] / sum(1 for at in split_groups(groups, 0).values() if at == split) for split in SPLITS}
    assert max(mean.values()) < 1.5 * min(mean.values()), "patients with many images must not all train"


@given(ANY_GROUPS, st.integers(2, 60), SEED)
def test_taking_some_groups_never_exceeds_the_limit(groups: dict[str, Counts], most: int, seed: int) -> None:
    totals = tuple(sum(counts[label] for counts in groups.values()) for label in (0, 1))
    limits = proportional_limits((totals[0], totals[1]), most)
    taken = take_groups(groups, limits, seed)
    for label in (0, 1):
        assert sum(groups[key][label] for key in taken) <= limits[label]
        assert (limits[label] > 0) == (totals[label] > 0)
    assert sum(limits) == min(most, sum(totals))


def test_limits_keep_the_proportion() -> None:
    assert proportional_limits((900, 100), 50) == (45, 5)
    assert proportional_limits((10_000, 3), 50) == (49, 1)
    assert proportional_limits((5, 5), 50) == (5, 5)


def test_mixed_patients_do_not_shut_out_the_rarer_class() -> None:
    groups: dict[str, Counts] = {f"mixed-{i}": (1, 1) for i in range(10)} | {f"well-{i}": (3, 0) for i in range(30)}
    taken = take_groups(groups, (10, 10), seed=0)
    assert taken == {key for key in groups if key.startswith("mixed")}
