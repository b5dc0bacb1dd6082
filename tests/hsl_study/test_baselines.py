"""The baselines against numbers by hand and the conditions that define them."""

import numpy as np
import pytest

from hsl_model.data import ImageSet
from hsl_model.metrics import roc_auc
from hsl_study.arm_kinds import BaselineConfig
from hsl_study.baselines import case_weights, features, fit
from tests.hsl_model.engine_helpers import image_set

MEAN = BaselineConfig(kind="one-scalar")


def flat(*intensities: int, labels: list[int], sites: list[int] | None = None) -> ImageSet:
    images = np.zeros((len(intensities), 1, 4, 4), np.uint8) + np.array(intensities, np.uint8)[:, None, None, None]
    return ImageSet(images, np.array(labels, np.uint8), None if sites is None else np.array(sites))


def test_the_features_of_one_image_by_hand() -> None:
    image = np.array([[[[0, 51], [102, 255]]]], dtype=np.uint8)  # 0, 0.2, 0.4, 1
    found = {name: features(image, BaselineConfig(kind="one-scalar", feature=name)) for name in
             ("mean", "spread", "sharpness")}  # fmt: skip
    assert found["mean"][0, 0] == pytest.approx(0.4)
    assert found["spread"][0, 0] == pytest.approx(np.sqrt((0.16 + 0.04 + 0 + 0.36) / 4))
    assert found["sharpness"][0, 0] == pytest.approx(((0.4 + 0.8) / 2 + (0.2 + 0.6) / 2) / 2)
    assert features(image, BaselineConfig(kind="logistic", side=1)).tolist() == [[pytest.approx(0.4)]]
    assert features(image, BaselineConfig(kind="logistic", side=64)).shape == (1, 4), "never more than there is"


def test_one_scalar_takes_its_sign_and_its_middle_from_the_training_images_alone() -> None:
    bright = fit(flat(51, 102, 153, 204, labels=[0, 0, 1, 1]), MEAN, balanced=False)
    dark = fit(flat(51, 102, 153, 204, labels=[1, 1, 0, 0]), MEAN, balanced=False)
    test = flat(102, 255, labels=[0, 1])
    assert bright.logits(test.images).tolist() == pytest.approx([0.4 - 0.5, 1.0 - 0.5])
    assert dark.logits(test.images).tolist() == pytest.approx([0.5 - 0.4, 0.5 - 1.0])
    assert roc_auc(bright.logits(test.images), test.labels) == 1.0
    assert roc_auc(dark.logits(test.images), test.labels) == 0.0, "the test images may not turn the sign"


def test_one_scalar_by_site_and_class_is_not_misled_by_a_bright_site_of_positives() -> None:
    """Within each site positives are darker; site 1 is brighter, and most of its many images are positive."""
    intensities, labels = [60, 60, 60, 60, 20, *[150] * 8, 190], [0, 0, 0, 0, 1, *[1] * 8, 0]
    cases = flat(*intensities, labels=labels, sites=[0] * 5 + [1] * 9)
    test = flat(100, 60, labels=[0, 1])
    by_site_class = fit(cases, MEAN, balanced=True)
    by_class = fit(ImageSet(cases.images, cases.labels), MEAN, balanced=True)
    assert roc_auc(by_site_class.logits(test.images), test.labels) == 1.0
    assert roc_auc(by_class.logits(test.images), test.labels) == 0.0


def test_weights_give_every_class_or_cell_the_same_sum() -> None:
    cases = flat(1, 2, 3, 4, 5, 6, labels=[0, 0, 0, 0, 1, 1], sites=[0, 0, 0, 1, 1, 1])
    assert case_weights(ImageSet(cases.images, cases.labels)).tolist() == pytest.approx([0.75] * 4 + [1.5] * 2)
    assert case_weights(cases).tolist() == pytest.approx([2 / 3] * 3 + [2] + [1] * 2)


@pytest.mark.parametrize("balanced", [True, False])
def test_logistic_regression_ends_where_its_penalised_gradient_vanishes(*, balanced: bool) -> None:
    cases, config = image_set(60, 3, positive_share=0.2), BaselineConfig(kind="logistic", side=4, penalty=0.7)
    model = fit(cases, config, balanced=balanced)
    values = (features(cases.images, config) - model.centre) / model.scale
    weights = case_weights(cases) if balanced else np.ones(60)
    assert np.average(values, axis=0, weights=weights) == pytest.approx(np.zeros(16), abs=1e-9)
    assert np.average(values**2, axis=0, weights=weights) == pytest.approx(np.ones(16))
    missed = weights * (1 / (1 + np.exp(-(values @ model.coefficients + model.intercept))) - cases.labels)
    assert values.T @ missed + 0.7 * model.coefficients == pytest.approx(np.zeros(16), abs=1e-6)
    assert missed.sum() == pytest.approx(0.0, abs=1e-6), "the intercept is not penalised"
    strict = fit(cases, config.model_copy(update={"penalty": 1e6}), balanced=balanced)
    assert np.abs(strict.coefficients).max() < 1e-3 < np.abs(model.coefficients).max()


def test_logistic_regression_finds_the_bright_middle_and_is_the_same_again() -> None:
    config = BaselineConfig(kind="logistic", side=4)
    training, test = image_set(80, 5), image_set(40, 6)
    first, again = (fit(training, config, balanced=True).logits(test.images) for _ in range(2))
    auc = roc_auc(first, test.labels)
    assert auc is not None
    assert auc > 0.95
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", ["one-scalar", "logistic"])
@pytest.mark.parametrize("label", [0, 1])
def test_from_one_class_nothing_is_learned_and_every_image_gets_that_class(kind: str, label: int) -> None:
    model = fit(flat(10, 200, 30, labels=[label] * 3), BaselineConfig.model_validate({"kind": kind}), balanced=True)
    found = model.logits(flat(1, 99, 250, labels=[0, 1, 1]).images)
    assert len(set(found.tolist())) == 1
    assert (found[0] > 0) == bool(label)
