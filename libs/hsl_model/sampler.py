"""Which case stands where in an epoch: the pair loader and the balanced sampler of methods.md 2.2, as pure functions.

An epoch of L images has ceil(L / batch) steps, the same for every method. Primary and SAT are shuffled by streams of
their own, so that the primary batches do not depend on whether there is a SAT.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hsl_model.protocol.errors import ConfigError

Indices = npt.NDArray[np.int64]


def num_images(images_per_epoch: int | None, num_training: int, num_sat: int) -> int:
    """L: the run's setting, or max(training cases, SAT cases). A site with fewer than two cases cannot train."""
    if num_training < 2:
        raise ConfigError(reason=f"this site has {num_training} training cases; training needs at least 2")
    return images_per_epoch or max(num_training, num_sat)


def num_steps(num_images: int, batch_size: int) -> int:
    """ceil(L / B); a last batch of a single image is dropped, because batch normalisation cannot train on it."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def epoch_order(num_cases: int, num_images: int, random: np.random.Generator) -> Indices:
    """(L,) case indices, shuffled. Every case once, then random ones (the shorter set is oversampled);
    a random part of the cases where L is smaller than their number."""
    order = random.permutation(num_cases)[:num_images]
    extra = random.integers(0, num_cases, num_images - len(order))
    return random.permutation(np.concatenate([order, extra])).astype(np.int64)


def balance(order: Indices, labels: npt.NDArray[np.uint8], random: np.random.Generator) -> Indices:
    """Replace a majority case, with probability (1/2 - p_min) / p_max, by a random minority case.

    p_min and p_max are the class shares of all cases; both classes are then expected in equal number. Without a case
    of the minority class nothing can be replaced.
    """
    positive_share = float(labels.mean())
    minority = 1 if positive_share <= 0.5 else 0
    minority_cases = np.flatnonzero(labels == minority)
    if not len(minority_cases):
        return order
    p_min = len(minority_cases) / len(labels)
    probability = (0.5 - p_min) / (1.0 - p_min)
    draws = random.random(len(order))  # one per place, whatever stands there
    candidates = minority_cases[random.integers(0, len(minority_cases), len(order))]
    replaced = (labels[order] != minority) & (draws < probability)
    return np.where(replaced, candidates, order)


def balance_cells(order: Indices, cells: Indices, random: np.random.Generator) -> Indices:
    """`balance` over more than two kinds of case: `cells` (N,) numbers them, for instance by site and class.

    With m cells among the cases, one of a share p_c > 1/m is replaced with probability 1 - 1 / (m p_c), by a case of a
    cell d < 1/m drawn in proportion to 1/m - p_d. Every cell that has cases is then expected in equal number.
    """
    _, member_of, counts = np.unique(cells, return_inverse=True, return_counts=True)
    equal, shares = 1.0 / len(counts), counts / len(cells)
    lacking = np.maximum(0.0, equal - shares)
    if not lacking.any():
        return order
    probability = np.maximum(0.0, 1.0 - equal / shares)[member_of[order]]
    draws = random.random(len(order))  # one per place, whatever stands there
    candidates = random.choice(len(cells), len(order), p=(lacking / lacking.sum() / counts)[member_of])
    return np.where(draws < probability, candidates, order)


def site_classes(sites: Indices, labels: npt.NDArray[np.uint8]) -> Indices:
    """(N,) numbers of the cells site x class."""
    return 2 * sites + labels


def micro_batches(batch_size: int, micro_batch_size: int | None) -> list[slice]:
    """Nearly equal parts of a batch for a device that is too small for all of it. A part of one image is never
    formed, so a part may hold one image more than asked."""
    if micro_batch_size is None or micro_batch_size >= batch_size:
        return [slice(0, batch_size)]
    parts = min(-(-batch_size // micro_batch_size), batch_size // 2)
    edges = [batch_size * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
