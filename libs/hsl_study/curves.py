"""What the figures draw: ROC curves averaged over seeds, and validation AUC by round. Numbers only, no matplotlib."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hsl_study.cells import CellRow
from hsl_study.statistics import Panel

Curve = npt.NDArray[np.float64]
FALSE_POSITIVE_RATES: Curve = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Band:
    """A mean with the range of the middle 95 % of the seeds; all (N,)."""

    at: Curve
    mean: Curve
    low: Curve
    high: Curve


def roc_band(panels: Iterable[Panel]) -> Band | None:
    """Vertical average over seeds (methods.md 1.9). None where no seed has both classes."""
    curves = [curve for panel in panels if (curve := _roc(panel)) is not None]
    return _band(FALSE_POSITIVE_RATES, curves)


def convergence_band(rows: Sequence[CellRow]) -> Band | None:
    """Mean validation AUC after each fusion, from round 0; as far as the longest seed. None where it is undefined."""
    longest = max((len(row.validation_aucs) for row in rows), default=0)
    table = np.full((len(rows), longest), np.nan)
    for at, row in enumerate(rows):
        table[at, : len(row.validation_aucs)] = [np.nan if auc is None else auc for auc in row.validation_aucs]
    rounds = np.flatnonzero(np.isfinite(table).any(axis=0))
    if not len(rounds):
        return None
    columns = [column[np.isfinite(column)] for column in table[:, rounds].T]
    low, high = (np.array([np.quantile(column, share) for column in columns]) for share in (0.025, 0.975))
    return Band(rounds.astype(float), np.array([column.mean() for column in columns]), low, high)


def _roc(panel: Panel) -> Curve | None:
    """True-positive rate at `FALSE_POSITIVE_RATES`, tied scores joined by a straight line as in the AUC."""
    positive = panel.labels == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return None
    order = np.argsort(-panel.logits, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(panel.logits[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[last_of_ties]
    true_rate = np.append(0.0, hits / num_positive)
    false_rate = np.append(0.0, (last_of_ties + 1 - hits) / num_negative)
    # Of several hits at one false-positive rate `interp` takes the last at that rate and the first on the way to it.
    found: Curve = np.interp(FALSE_POSITIVE_RATES, false_rate, true_rate)
    return found


def _band(at: Curve, curves: Sequence[Curve]) -> Band | None:
    if not curves:
        return None
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    return Band(at, np.mean(curves, axis=0), low, high)
