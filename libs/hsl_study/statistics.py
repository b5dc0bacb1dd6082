"""What a study may conclude: intervals over training seeds first, the paper's pooled bootstrap second.

    primary            one number a seed (AUC), paired differences, t-interval over the seeds
    generalisation     two-way bootstrap: seeds x image groups, so that another draw of either is allowed for
    secondary          the paper's bootstrap over the pooled predictions of all seeds (methods.md 1.9); it takes the
                       training of each seed for granted, so its intervals are too short

Undefined numbers (a class is missing) are None and stay None: whoever prints them says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import average_precision_score

from hsl_model.metrics import roc_auc
from hsl_model.protocol.config import Message

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Groups = npt.NDArray[np.int64]  # equal numbers: one image and its copies, or one patient
Weights = npt.NDArray[np.float64]  # how often each image was drawn

THRESHOLD = 0.5  # of the probability, i.e. logit 0 (methods.md 1.9)


@dataclass(frozen=True)
class Interval:
    """An estimate, its `1 - alpha` interval and the two-sided p-value of "no difference".

    `undefined`: share of a bootstrap's resampled AUCs that lacked a class and were left out.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    undefined: float = 0.0


class NodeMetrics(Message):
    """One model on one set of images. None: undefined, because a class is missing or nothing was called positive."""

    num_positive: int
    num_negative: int
    auc: float | None
    auprc: float | None
    accuracy: float | None
    recall: float | None
    precision: float | None


def node_metrics(logits: Scores, labels: Labels) -> NodeMetrics:
    """Logits (N,) and labels (N,) -> the paper's five metrics; accuracy, recall and precision at probability 0.5."""
    called = logits > 0
    positive = labels == 1
    hits = int((called & positive).sum())
    num_positive, num_called = int(positive.sum()), int(called.sum())
    return NodeMetrics(
        num_positive=num_positive,
        num_negative=len(labels) - num_positive,
        auc=roc_auc(logits, labels),
        auprc=float(average_precision_score(labels, logits)) if 0 < num_positive < len(labels) else None,
        accuracy=float((called == positive).mean()) if len(labels) else None,
        recall=hits / num_positive if num_positive else None,
        precision=hits / num_called if num_called else None,
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Over seeds; the sd (n - 1) is None for a single one."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def paired_difference(first: Mapping[int, float], second: Mapping[int, float], alpha: float = 0.05) -> Interval:
    """`first` minus `second`, by seed: the primary analysis. t-interval and t-test over the seeds both have.

    Raises `ValueError` for fewer than two common seeds: nothing can be said about the noise of training from one.
    """
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        raise ValueError(f"a paired difference needs at least two seeds that both arms have; they share {len(seeds)}")
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    estimate, sd = mean_and_sd(differences.tolist())
    standard_error = (sd or 0.0) / math.sqrt(len(seeds))
    if standard_error == 0.0:
        return Interval(estimate, estimate, estimate, 1.0 if estimate == 0.0 else 0.0)
    half = float(stats.t.ppf(1 - alpha / 2, len(seeds) - 1)) * standard_error
    p_value = 2 * float(stats.t.sf(abs(estimate) / standard_error, len(seeds) - 1))
    return Interval(estimate, estimate - half, estimate + half, p_value)


def smallest_detectable(sd: float, num_seeds: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a paired t-test of `num_seeds` differences with this sd finds with `power`.

    By the usual sum of two t-quantiles; within a few percent of the exact noncentral answer from five seeds on.
    """
    if num_seeds < 2:
        raise ValueError("one seed can detect nothing: its noise is unknown")
    degrees = num_seeds - 1
    quantiles = float(stats.t.ppf(1 - alpha / 2, degrees)) + float(stats.t.ppf(power, degrees))
    return quantiles * sd / math.sqrt(num_seeds)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values of the contrasts that were declared before the study (Holm, 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


# --- bootstraps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One model on one set of test images: logits (N,), labels (N,), groups (N,)."""

    logits: Scores
    labels: Labels
    groups: Groups


SeedPanels = Sequence[Sequence[Panel]]  # of each seed, of each node


@dataclass(frozen=True)
class ArmScores:
    """What the seeds of one arm gave the same test images: logits (S, N), labels (N,), groups (N,)."""

    logits: Scores
    labels: Labels
    groups: Groups

    def __post_init__(self) -> None:
        if (
            self.logits.ndim != 2
            or self.logits.shape[1:] != self.labels.shape
            or self.labels.shape != self.groups.shape
        ):
            raise ValueError(f"scores {self.logits.shape}, labels {self.labels.shape}, groups {self.groups.shape}")

    def panels(self) -> list[Panel]:
        return [Panel(logits, self.labels, self.groups) for logits in self.logits]


def two_way_bootstrap(
    first: ArmScores, second: ArmScores, num_resamples: int = 2000, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """`two_way_panels` where all seeds scored the same images with one model."""
    panels = [[[panel] for panel in arm.panels()] for arm in (first, second)]
    return two_way_panels(panels[0], panels[1], num_resamples, seed, alpha)


def two_way_panels(
    first: SeedPanels, second: SeedPanels, num_resamples: int = 2000, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """Mean AUC over seeds and nodes, `first` minus `second`, when seeds *and* images are drawn anew, the same for both.

    Whole groups are drawn over the test images of all seeds, within strata by the classes that a group holds. An AUC
    that lacks a class, in the data or in a resample, is left out of its mean; `undefined` is the share of resampled
    ones. Raises `ValueError` where no AUC is defined or the arms scored other images.
    """
    _check_same_images(_flat(first), _flat(second))
    random = np.random.default_rng(seed)
    labels, groups = (np.concatenate([getattr(panel, name) for panel in _flat(first)]) for name in ("labels", "groups"))
    numbers, drawn_groups = _drawn_groups(labels, groups, num_resamples, random)
    once = np.ones((1, len(numbers)))
    observed = np.array([_mean_difference(*pair, numbers, once)[0][0] for pair in zip(first, second, strict=True)])
    if np.isnan(observed).all():
        raise ValueError("no AUC is defined: every node's test images lack one of the classes")
    found = [_mean_difference(*pair, numbers, drawn_groups) for pair in zip(first, second, strict=True)]
    by_seed = np.stack([differences for differences, _ in found], axis=1)  # (B, S)
    drawn = random.integers(0, len(first), (num_resamples, len(first)))
    differences = _mean_of_defined(np.take_along_axis(by_seed, drawn, axis=1), axis=1)
    undefined = float(np.mean([share for _, share in found]))
    return _percentile(float(np.nanmean(observed)), differences, alpha, undefined)


def pooled_bootstrap(
    first: ArmScores, second: ArmScores, num_resamples: int = 1000, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """`pooled_panels` where all seeds scored the same images."""
    return pooled_panels(first.panels(), second.panels(), num_resamples, seed, alpha)


def pooled_panels(
    first: Sequence[Panel], second: Sequence[Panel], num_resamples: int = 1000, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """The paper's analysis of one node: all seeds' predictions in one list, images drawn within (seed, class).

    Ignores that each seed is one training among many, and that the seeds' test images overlap. Raises `ValueError`
    where all seeds together lack a class.
    """
    _check_same_images(first, second)
    random = np.random.default_rng(seed)
    labels = np.concatenate([panel.labels for panel in first])
    one, other = (np.concatenate([panel.logits for panel in arm]) for arm in (first, second))
    strata = np.repeat(np.arange(len(first)), [len(panel.labels) for panel in first]) * 2 + labels
    weights = _drawn_within(strata, np.arange(len(labels)), num_resamples, random)
    differences = weighted_aucs(one, labels, weights) - weighted_aucs(other, labels, weights)
    once = np.ones((1, len(labels)))
    observed = float((weighted_aucs(one, labels, once) - weighted_aucs(other, labels, once))[0])
    return _percentile(observed, differences, alpha)


def _mean_difference(
    first: Sequence[Panel], second: Sequence[Panel], numbers: Groups, weights: Weights
) -> tuple[Weights, float]:
    """One seed: the mean over nodes of AUC(first) - AUC(second) in each resample (B,), and the undefined share.

    `weights` (B, G): how often each group of `numbers` (G,) was drawn. A model that several nodes hold is asked once.
    """
    known: dict[bytes, Weights] = {}
    by_node = []
    for one, other in zip(first, second, strict=True):
        drawn = weights[:, np.searchsorted(numbers, one.groups)]
        sides = []
        for panel in (one, other):
            key = panel.logits.tobytes() + panel.groups.tobytes()
            if key not in known:
                known[key] = _aucs_or_nan(panel.logits, panel.labels, drawn)
            sides.append(known[key])
        by_node.append(sides[0] - sides[1])
    table = np.stack(by_node)
    possible = np.array([len(np.unique(panel.labels)) == 2 for panel in first])
    undefined = float(np.isnan(table[possible]).mean()) if possible.any() else 1.0
    return _mean_of_defined(table, axis=0), undefined


def _mean_of_defined(values: Weights, axis: int) -> Weights:
    """NaN where none is defined; unlike `nanmean` without a warning."""
    num_defined = np.isfinite(values).sum(axis=axis)
    found: Weights = np.where(num_defined > 0, np.nansum(values, axis=axis) / np.maximum(num_defined, 1), np.nan)
    return found


def weighted_aucs(scores: Scores, labels: Labels, weights: Weights) -> Weights:
    """AUC of each resample: scores (N,), labels (N,), weights (B, N) of whole numbers -> (B,). Ties count half.

    Raises `ValueError` where a resample lacks a class.
    """
    found = _aucs_or_nan(scores, labels, weights)
    if np.isnan(found).any():
        raise ValueError("a resample without one of the classes has no AUC")
    return found


def _aucs_or_nan(scores: Scores, labels: Labels, weights: Weights) -> Weights:
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")
    positive = np.where(labels[order] == 1, weights[:, order], 0.0)
    negative = np.where(labels[order] == 1, 0.0, weights[:, order])
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negative, axis=1)], axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    won = (positive * (below[:, first] + below[:, last])).sum(axis=1)
    found: Weights = np.where(pairs > 0, won / (2 * np.maximum(pairs, 1)), np.nan)
    return found


def group_weights(labels: Labels, groups: Groups, num_resamples: int, random: np.random.Generator) -> Weights:
    """How often each image is in each resample (B, N): groups drawn with replacement among those of their classes."""
    numbers, drawn = _drawn_groups(labels, groups, num_resamples, random)
    return drawn[:, np.searchsorted(numbers, groups)]


def _drawn_groups(
    labels: Labels, groups: Groups, num_resamples: int, random: np.random.Generator
) -> tuple[Groups, Weights]:
    """The different groups (G,), and how often each is in each resample (B, G)."""
    numbers, member_of = np.unique(groups, return_inverse=True)
    has_positive = np.bincount(member_of, labels == 1, len(numbers)) > 0
    has_negative = np.bincount(member_of, labels == 0, len(numbers)) > 0
    strata = has_positive * 2 + has_negative
    return numbers, _drawn_within(strata, np.arange(len(numbers)), num_resamples, random)


def _drawn_within(
    strata: npt.NDArray[np.int64], items: npt.NDArray[np.int64], num_resamples: int, random: np.random.Generator
) -> Weights:
    """(B, number of items): multinomial counts within each stratum."""
    weights = np.zeros((num_resamples, len(items)))
    for stratum in np.unique(strata):
        own = items[strata == stratum]
        weights[:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), size=num_resamples)
    return weights


def _percentile(observed: float, differences: Weights, alpha: float, undefined: float = 0.0) -> Interval:
    """p = min(1, 2 (1 + number of resamples not on the observed side of zero) / (B + 1)) (methods.md 1.9).

    Where nothing was observed no resample is on its side: equal arms have p = 1, not the smallest p there is.
    """
    differences = differences[np.isfinite(differences)]
    low, high = np.quantile(differences, (alpha / 2, 1 - alpha / 2))
    against = int((differences * np.sign(observed) <= 0.0).sum())
    p_value = min(1.0, 2 * (1 + against) / (len(differences) + 1))
    return Interval(observed, float(low), float(high), p_value, undefined)


def _flat(panels: SeedPanels) -> list[Panel]:
    return [panel for nodes in panels for panel in nodes]


def _check_same_images(first: Sequence[Panel], second: Sequence[Panel]) -> None:
    same = len(first) == len(second) and all(
        np.array_equal(one.labels, other.labels) and np.array_equal(one.groups, other.groups)
        for one, other in zip(first, second, strict=True)
    )
    if not same:
        raise ValueError("both arms must have scored the same images with the same seeds")
