import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsl_model.protocol.errors import ConfigError
from hsl_model.sampler import balance, balance_cells, epoch_order, micro_batches, num_images, num_steps, site_classes
from hsl_model.seeding import generator


def test_an_epoch_is_as_long_as_the_longer_set_unless_the_run_says_otherwise() -> None:
    assert num_images(None, 120, 2000) == 2000
    assert num_images(None, 3000, 2000) == 3000
    assert num_images(500, 3000, 2000) == 500


@pytest.mark.parametrize("num_training", [0, 1])
def test_a_site_without_two_cases_cannot_train(num_training: int) -> None:
    with pytest.raises(ConfigError, match=f"{num_training} training cases"):
        num_images(100, num_training, 2000)


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(10, 4, 3), (8, 4, 2), (9, 4, 2), (3, 64, 1), (64, 64, 1), (65, 64, 1), (66, 64, 2)]
)
def test_steps_are_rounded_up_but_no_batch_of_one_is_formed(images: int, batch: int, steps: int) -> None:
    assert num_steps(images, batch) == steps


def test_every_case_comes_once_before_any_comes_again() -> None:
    order = epoch_order(7, 20, generator("order"))
    assert len(order) == 20
    assert set(order) == set(range(7))
    assert sorted(epoch_order(7, 7, generator("order"))) == list(range(7))
    part = epoch_order(20, 7, generator("order"))
    assert len(set(part)) == 7


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.7, 0.99])
def test_balanced_sampling_gives_both_classes_in_equal_number(share: float) -> None:
    """methods.md 6.4: the positive share is 0.5 within three sigma, in both directions of skew."""
    num_cases, drawn = 1000, 20_000
    labels = np.zeros(num_cases, dtype=np.uint8)
    labels[: round(share * num_cases)] = 1
    order = balance(epoch_order(num_cases, drawn, generator("order", 1)), labels, generator("balance", 1))
    assert abs(labels[order].mean() - 0.5) < 3 * 0.5 / np.sqrt(drawn)
    unbalanced = epoch_order(num_cases, drawn, generator("order", 1))
    assert abs(labels[unbalanced].mean() - share) < 0.02


def test_only_majority_cases_are_replaced_and_only_by_minority_cases() -> None:
    labels = np.array([1] * 5 + [0] * 95, dtype=np.uint8)
    before = epoch_order(100, 100, generator("order"))
    after = balance(before, labels, generator("balance"))
    changed = before != after
    assert changed.any()
    assert (labels[before[changed]] == 0).all()
    assert (labels[after[changed]] == 1).all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_stays_as_it_is(label: int) -> None:
    labels = np.full(10, label, dtype=np.uint8)
    order = epoch_order(10, 30, generator("order"))
    assert (balance(order, labels, generator("balance")) == order).all()


SITES = np.repeat([0, 0, 1, 1, 2], [600, 8, 12, 1500, 3])
LABELS = np.repeat([0, 1, 0, 1, 1], [600, 8, 12, 1500, 3]).astype(np.uint8)  # site 2 has one class alone


def test_balanced_cells_come_in_equal_number_so_that_the_site_says_nothing_of_the_class() -> None:
    cells, drawn = site_classes(SITES, LABELS), 40_000
    plain = epoch_order(len(cells), drawn, generator("order"))
    order = balance_cells(plain, cells, generator("balance"))
    numbers, counts = np.unique(cells[order], return_counts=True)
    assert numbers.tolist() == [0, 1, 2, 3, 5]
    assert (np.abs(counts / drawn - 0.2) < 4 * np.sqrt(0.2 * 0.8 / drawn)).all()
    by_class = balance(plain, LABELS, generator("balance"))
    assert LABELS[by_class][SITES[by_class] == 0].mean() < 0.1, "balanced by class, site 0 still says negative"
    assert abs(LABELS[order][SITES[order] == 0].mean() - 0.5) < 0.02


def test_two_cells_are_balanced_as_two_classes_are() -> None:
    labels = np.array([1] * 100 + [0] * 300, dtype=np.uint8)
    before = epoch_order(400, 400, generator("order"))
    after = balance_cells(before, labels.astype(np.int64), generator("balance"))
    changed = before != after
    assert (labels[before[changed]] == 0).all()
    assert (labels[after[changed]] == 1).all()
    replaced = changed.sum() / (labels[before] == 0).sum()
    assert abs(replaced - (0.5 - 0.25) / 0.75) < 4 * np.sqrt(1 / 3 * 2 / 3 / 300)


def test_cells_of_equal_size_and_a_single_cell_stay_as_they_are() -> None:
    order = epoch_order(40, 100, generator("order"))
    for cells in (np.arange(40) % 4, np.zeros(40, dtype=np.int64)):
        assert (balance_cells(order, cells, generator("balance")) == order).all()


@given(st.integers(2, 300), st.integers(2, 100))
def test_micro_batches_cover_the_batch_and_none_has_one_image(batch: int, micro: int) -> None:
    parts = micro_batches(batch, micro)
    sizes = [part.stop - part.start for part in parts]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(batch))
    assert min(sizes) >= 2
    assert max(sizes) <= micro + 1
    assert micro_batches(batch, None) == [slice(0, batch)]
