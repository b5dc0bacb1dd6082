"""Grey levels by rank: what a machine's curve does to them is undone, wherever the network looks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hsl_model import batches
from hsl_model.batches import PairLoader
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions, predict, validate
from hsl_model.intensity import Intensity, quantile_curve, ranks
from hsl_model.model_state import load_network
from hsl_model.protocol.errors import ConfigError
from hsl_model.scoring import Scorer, features
from tests.hsl_model.engine_helpers import image_set, initial_file, run_config, site_data, spec_of

Pixels = npt.NDArray[np.uint8]
KINDS = ("equalised", "anchors")
DARKER = np.rint(255 * (np.arange(256) / 255) ** 2 / 2).astype(np.uint8)  # never falls, and joins dark levels
DISTINCT = np.array([*range(200), 201, 203, 240, *range(245, 255)], dtype=np.uint8)
LEVELS = st.sets(st.integers(0, 255), min_size=9, max_size=9).map(sorted)


def seen(kind: str, images: Pixels) -> npt.NDArray[np.float32]:
    config = run_config("swarm", training={"intensity": kind})
    made: npt.NDArray[np.float32] = Intensity(config, site_data().sat, "cpu")(torch.from_numpy(images)).numpy()
    return made


def brightened(cases: ImageSet) -> ImageSet:
    """Another machine's copy: every level of `image_set` moves, and no two become one."""
    assert cases.images.max() < len(DISTINCT)
    return ImageSet(np.ascontiguousarray(DISTINCT[cases.images.astype(np.int64)] + 1), cases.labels)


# --- what it is ---


def test_ranks_by_hand() -> None:
    """Five pixels 7, one 9, two 200: 2.5, 5.5 and 7 of 8; channels of an image count together, images do not."""
    images = np.array([[[[7, 7], [7, 9]], [[7, 7], [200, 200]]], [[[4, 4], [4, 4]], [[4, 4], [4, 4]]]], dtype=np.uint8)
    found = seen("equalised", images)
    assert found[0].flatten().tolist() == [x / 8 for x in (2.5, 2.5, 2.5, 5.5, 2.5, 2.5, 7, 7)]
    assert (found[1] == 0.5).all(), "one level: the middle"


def test_every_level_once_is_uniform() -> None:
    image = np.random.default_rng(0).permutation(256).astype(np.uint8).reshape(1, 1, 16, 16)
    assert np.sort(seen("equalised", image), axis=None).tolist() == ((np.arange(256) + 0.5) / 256).tolist()


def test_the_curve_of_one_image_gives_that_image_back() -> None:
    image = np.random.default_rng(0).permutation(256).astype(np.uint8).reshape(1, 1, 16, 16)
    assert quantile_curve(image) == pytest.approx(np.arange(256) / 255)
    anchors = ImageSet(image, np.ones(1, dtype=np.uint8))
    config = run_config("swarm", training={"intensity": "anchors"})
    shown = Intensity(config, anchors, "cpu")(torch.from_numpy(DARKER[image.astype(np.int64)][:, :, 8:]))
    assert shown.min() >= 0
    assert Intensity(config, anchors, "cpu")(torch.from_numpy(image)).numpy() == pytest.approx(image / 255, abs=1e-6)


def test_the_curve_is_the_mean_over_images_however_many_are_read_at_a_time() -> None:
    images = image_set(150, 4).images
    assert quantile_curve(images) == pytest.approx(np.mean([quantile_curve(one[None]) for one in images], axis=0))
    dark, bright = np.full((1, 1, 4, 4), 51, np.uint8), np.full((1, 1, 4, 4), 255, np.uint8)
    assert quantile_curve(np.concatenate((dark, bright))) == pytest.approx(np.full(256, 0.6))


@pytest.mark.parametrize("kind", KINDS)
@given(arrays.arrays(np.int64, (2, 1, 4, 5), elements=st.integers(0, 8)), LEVELS, LEVELS)
def test_a_strictly_rising_curve_changes_nothing(
    kind: str, which: npt.NDArray[np.int64], one: list[int], other: list[int]
) -> None:
    first, second = (np.array(levels, dtype=np.uint8)[which] for levels in (one, other))
    assert np.array_equal(seen(kind, first), seen(kind, second))


@given(
    arrays.arrays(np.uint8, (1, 1, 6, 6)),
    arrays.arrays(np.uint8, 256).map(np.sort),
)
def test_levels_that_a_curve_joins_move_by_half_of_their_common_share_at_most(image: Pixels, curve: Pixels) -> None:
    stored = curve[image.astype(np.int64)]
    _, where, counts = np.unique(stored, return_inverse=True, return_counts=True)
    share = counts[where].reshape(image.shape) / image.size
    assert (np.abs(seen("equalised", stored) - seen("equalised", image)) <= share / 2 + 1e-6).all()


@given(arrays.arrays(np.uint8, (2, 1, 5, 5)))
def test_brighter_stays_brighter_and_values_stay_in_range(images: Pixels) -> None:
    table = ranks(torch.from_numpy(images))
    assert (table.diff(dim=1) >= 0).all()
    for kind in KINDS:
        found = seen(kind, images)
        assert found.dtype == np.float32
        assert (found >= 0).all()
        assert (found <= 1).all()
        for before, after in zip(images, found, strict=True):
            order = np.argsort(before, axis=None, kind="stable")
            assert (np.diff(after.flatten()[order]) >= 0).all()


# --- where it is applied ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["swarm", "hsl"])
def test_training_validation_features_and_prediction_see_no_curve(kind: str, method: str, tmp_path: Path) -> None:
    """The SAT stays as it is, as it is the same everywhere; its images are shown by rank as well."""
    config, data = run_config(method, training={"intensity": kind}), site_data()
    other = SiteData(*(brightened(part) for part in (data.training, data.validation, data.test)), data.sat)
    one, two = (PairLoader(spec_of(config), part, "cpu").batch(0, 0) for part in (data, other))
    assert torch.equal(one.images, two.images)
    start, options = [initial_file(config, tmp_path)], EngineOptions()
    assert validate(spec_of(config), data, start, options) == validate(spec_of(config), other, start, options)
    network = load_network(config, start, "cpu")
    for asked in (
        lambda part: predict(config, part.test.images, start, data.sat, options),
        lambda part: features(config, network, part.test.images, data.sat),
    ):
        found = asked(data)
        assert np.array_equal(found, asked(other))
        assert len(np.unique(found, axis=0)) > 1
    stored = run_config(method)
    assert not np.array_equal(
        *(predict(stored, part.test.images, start, data.sat, options) for part in (data, other))
    ), "as stored, the curve is seen"


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_enters_the_network_in_scoring_as_it_does_in_training(kind: str, tmp_path: Path) -> None:
    """One image, unaugmented, as the encoder gets it."""
    config = run_config("swarm", training={"intensity": kind, "augment": False})
    one = ImageSet(image_set(1, 3).images.repeat(9, axis=0), np.array([0, 1] * 4 + [0], dtype=np.uint8))
    data, given = replace(site_data(), training=one), []
    network = load_network(config, [initial_file(config, tmp_path)], "cpu")
    network.primary_encoder.register_forward_pre_hook(lambda _module, images: given.append(images[0][0]))
    Scorer(config, network.eval(), data.sat).logits(one.images)
    features(config, network, one.images, data.sat)
    trained = PairLoader(spec_of(config), data, "cpu").batch(0, 0).images[0]
    assert all(torch.equal(image, trained) for image in given)
    assert len(given) == 6, "nine images in batches of four, twice"
    assert trained.numpy() == pytest.approx((seen(kind, one.images[:1])[0] - 0.449) / 0.226, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_rotations_and_flips_are_those_of_every_other_arm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = site_data(), []
    whole = batches.augment
    monkeypatch.setattr(batches, "augment", lambda *given: calls.append(given) or whole(*given))
    for training in ({}, {"intensity": kind}):
        loader = PairLoader(spec_of(run_config("hsl", training=training)), data, "cpu")
        calls.append(loader.batch(1, 1).labels.tolist())
    (as_stored, sat, labels), (by_rank, sat_by_rank, same_labels) = calls[:3], calls[3:]
    assert labels == same_labels
    for before, after in ((as_stored, by_rank), (sat, sat_by_rank)):
        assert before[1:] == after[1:], "the streams"
        assert np.array_equal(seen(kind, (before[0] * 255).round().numpy().astype(np.uint8)), after[0].numpy())


@pytest.mark.parametrize("missing", [None, image_set(0, 1)])
def test_the_anchors_curve_needs_the_anchors(missing: Any, tmp_path: Path) -> None:
    config = run_config("swarm", training={"intensity": "anchors"})
    with pytest.raises(ConfigError, match="shared anchor task"):
        PairLoader(spec_of(config), replace(site_data(), sat=missing), "cpu")
    with pytest.raises(ConfigError, match="intensity anchors needs the shared anchor task"):
        predict(config, site_data().test.images, [initial_file(config, tmp_path)], missing, EngineOptions())
