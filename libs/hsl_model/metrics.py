"""Validation numbers, in plain numpy so that they can be checked without the network."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
LabelArray = npt.NDArray[np.uint8]


def roc_auc(scores: FloatArray, labels: LabelArray) -> float | None:
    """Area under the ROC curve: P(positive scores higher) + P(tie) / 2 (Mann-Whitney). None where a class is missing.

    Exact: the counts are integers, so the order of the cases changes no bit.
    """
    positives = np.sort(scores[labels == 1])
    negatives = scores[labels == 0]
    if not len(positives) or not len(negatives):
        return None
    higher = len(positives) - np.searchsorted(positives, negatives, side="right")
    not_lower = len(positives) - np.searchsorted(positives, negatives, side="left")
    twice = int(higher.sum()) + int(not_lower.sum())
    return twice / (2 * len(positives) * len(negatives))


def is_one_answer(scores: FloatArray) -> bool:
    """Whether several images (N,) got one score among them: their AUC of 0.5 says that training collapsed."""
    return len(scores) > 1 and bool(np.ptp(scores) == 0)


def log_loss(logits: FloatArray, labels: LabelArray) -> float | None:
    """Mean binary cross-entropy of logits, in float64; None without cases. log(1 + e^z) - y z, stable for large |z|."""
    if not len(labels):
        return None
    z = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - labels * z))
