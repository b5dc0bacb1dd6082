"""Baselines without a network, each fitted in seconds: what a few fixed numbers of an image already tell.

    one-scalar   logit = +-(feature - m), m half-way between the classes' means, the sign by the training AUC
    logistic     logit = x . b + a over standardised pixels of a small picture,
                 minimising  sum_i w_i BCE(logit_i, y_i) + penalty / 2 |b|^2          (a convex problem: one solution)

Both give the training images the weights that the balanced sampler aims at, by class or by site x class; without a
balanced sampler all weigh 1. From images of one class nothing can be learned: such a model answers the same to every
image, and its AUC is 1/2 because all its scores are ties. Nothing is chosen by validation or test images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from hsl_model.checkpoint import tensors_digest
from hsl_model.data import ImageSet
from hsl_model.sampler import site_classes
from hsl_model.scoring import Logits
from hsl_study.arm_kinds import BaselineConfig
from hsl_study.statistics import weighted_aucs

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Linear:
    """logit = (features - centre) / scale . coefficients + intercept, features (N, F) of `config`."""

    config: BaselineConfig
    centre: Floats
    scale: Floats
    coefficients: Floats
    intercept: float

    def logits(self, images: Pixels) -> Logits:
        values = (features(images, self.config) - self.centre) / self.scale
        found: Logits = (values @ self.coefficients + self.intercept).astype(np.float32)
        return found

    def arrays(self) -> tuple[tuple[str, Floats], ...]:
        intercept = np.array([self.intercept])
        named = {"centre": self.centre, "scale": self.scale, "coefficients": self.coefficients, "intercept": intercept}
        return tuple(named.items())


def fit(training: ImageSet, config: BaselineConfig, *, balanced: bool) -> Linear:
    found, labels = features(training.images, config), np.asarray(training.labels)
    if len(set(labels.tolist())) < 2:
        nothing, log_odds = np.zeros(found.shape[1]), math.log((labels.sum() + 0.5) / ((labels == 0).sum() + 0.5))
        return Linear(config, nothing, nothing + 1.0, nothing, log_odds)
    weights = case_weights(training) if balanced else np.ones(len(labels))
    fitted = _one_scalar if config.kind == "one-scalar" else _logistic
    return fitted(found, labels, weights, config)


def features(images: Pixels, config: BaselineConfig) -> Floats:
    """(N, C, H, W) uint8 -> (N, 1) for one-scalar, (N, C x side x side) for logistic; intensities in [0, 1]."""
    if config.kind == "logistic":
        side = min(config.side, *images.shape[2:])
        pictures = torch.from_numpy(np.array(images)).to(torch.float64) / 255.0
        small: Floats = functional.adaptive_avg_pool2d(pictures, side).flatten(1).numpy()
        return small
    values = np.asarray(images, dtype=np.float64) / 255.0
    found: Floats
    match config.feature:
        case "mean":
            found = values.mean(axis=(1, 2, 3))
        case "spread":
            found = values.std(axis=(1, 2, 3))
        case "sharpness":
            down, right = (np.abs(np.diff(values, axis=axis)).mean(axis=(1, 2, 3)) for axis in (2, 3))
            found = (down + right) / 2
    return found[:, None]


def case_weights(cases: ImageSet) -> Floats:
    """(N,), 1 on average: every class, or every cell site x class that has cases, has the same sum."""
    labels = np.asarray(cases.labels, dtype=np.int64)
    cells = labels if cases.sites is None else site_classes(cases.sites, cases.labels)
    _, member_of, counts = np.unique(cells, return_inverse=True, return_counts=True)
    weights: Floats = (len(cells) / len(counts) / counts)[member_of]
    return weights


def _one_scalar(found: Floats, labels: Pixels, weights: Floats, config: BaselineConfig) -> Linear:
    means = [np.average(found[labels == label, 0], weights=weights[labels == label]) for label in (0, 1)]
    rises = weighted_aucs(found[:, 0].astype(np.float32), labels, weights[None])[0] >= 0.5
    sign = np.array([1.0 if rises else -1.0])
    return Linear(config, np.array([fmean(means)]), np.ones(1), sign, 0.0)


def _logistic(found: Floats, labels: Pixels, weights: Floats, config: BaselineConfig) -> Linear:
    centre = np.average(found, axis=0, weights=weights)
    spread = np.sqrt(np.average(np.square(found - centre), axis=0, weights=weights))
    scale = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=1.0 / config.penalty, solver="newton-cholesky", tol=1e-10, max_iter=500)
    model.fit((found - centre) / scale, labels, sample_weight=weights)
    return Linear(config, centre, scale, model.coef_[0].astype(np.float64), float(model.intercept_[0]))


def models_digest(models: Mapping[str, Linear]) -> str:
    """Of all nodes' numbers in the nodes' order, as the digest of a network is of its tensors."""
    ordered = enumerate(models[node] for node in sorted(models))
    return tensors_digest((f"model{at}.{name}", array) for at, model in ordered for name, array in model.arrays())
