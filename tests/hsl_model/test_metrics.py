import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from hsl_model.metrics import is_one_answer, log_loss, roc_auc


def test_auc_by_hand() -> None:
    # pairs (positive, negative): 0.9 beats both, 0.5 ties with 0.5 and beats 0.1: (1 + 1 + 0.5 + 1) / 4
    assert roc_auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0], dtype=np.uint8)) == 0.875


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1], []])
def test_auc_is_undefined_with_one_class(labels: list[int]) -> None:
    assert roc_auc(np.zeros(len(labels)), np.array(labels, dtype=np.uint8)) is None


@pytest.mark.parametrize("num_levels", [2, 5, 10_000])
def test_auc_agrees_with_scikit_learn_with_and_without_ties(num_levels: int) -> None:
    random = np.random.default_rng(num_levels)
    for _ in range(20):
        labels = random.integers(0, 2, 57).astype(np.uint8)
        scores = random.integers(0, num_levels, 57).astype(np.float32)
        assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_does_not_depend_on_the_order_of_the_cases() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 999).astype(np.uint8), random.normal(size=999).astype(np.float32)
    order = random.permutation(999)
    assert roc_auc(scores, labels) == roc_auc(scores[order], labels[order])


def test_log_loss_agrees_with_scikit_learn_and_is_stable() -> None:
    logits = np.array([-3.0, 0.2, 5.0, 1.0], dtype=np.float32)
    labels = np.array([0, 1, 1, 0], dtype=np.uint8)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert log_loss(logits, labels) == pytest.approx(sklearn_log_loss(labels, probabilities), rel=1e-12)
    assert log_loss(np.array([1000.0, -1000.0]), np.array([1, 1], dtype=np.uint8)) == 500.0
    assert log_loss(np.array([]), np.array([], dtype=np.uint8)) is None


@pytest.mark.parametrize(
    ("scores", "collapsed"), [([0.1, 0.1, 0.1], True), ([0.1, 0.1, 0.1000001], False), ([0.1], False), ([], False)]
)
def test_one_answer_for_several_images_is_seen_and_one_image_proves_nothing(
    scores: list[float], collapsed: bool
) -> None:
    assert is_one_answer(np.array(scores, dtype=np.float32)) is collapsed
