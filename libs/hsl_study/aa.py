"""The A/A study: one method against itself. Whatever finds a difference there is wrong, and should be so in 5 %.

Its arms are trainings of one method that differ in nothing but their seed, on the same splits. An A/A case compares two
of them, drawn for each replicate, in an order that is drawn as well:

    over splits     a node's own-domain AUC, one pair of trainings a split: the paired t-interval, as in every report
    within a split  one pair of trainings a node, all scored on the split's test images: the paired t-interval over the
                    nodes, the two-way bootstrap (nodes x image groups), and the paper's pooled bootstrap, which takes
                    each training for granted and so is expected to see differences that are none

Cases share trainings, so a rate's standard error goes over what shares none: nodes in the first kind, splits in the
second. A rate passes if it lies between 2 and 9 % at alpha 0.05.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hsl_model.metrics import roc_auc
from hsl_model.protocol.errors import ConfigError
from hsl_study.cells import CellRow
from hsl_study.folder import StudyFolder
from hsl_study.statistics import ArmScores, Interval, paired_difference, pooled_bootstrap, two_way_bootstrap

ALPHA = 0.05
LOWEST, HIGHEST = 0.02, 0.09
MIN_TRAININGS = 2
Clusters = Mapping[str, list[bool]]  # node or split -> whether each of its cases was rejected


@dataclass(frozen=True)
class Rate:
    """How often an analysis rejected what is true. `standard_error` over the clusters, None for a single one."""

    analysis: str
    num_cases: int
    rate: float
    standard_error: float | None

    @property
    def said(self) -> str:
        error = "" if self.standard_error is None else f" ± {100 * self.standard_error:.1f}"
        return f"{100 * self.rate:.1f}{error} %"

    @property
    def passes(self) -> bool:
        return LOWEST <= self.rate <= HIGHEST


@dataclass(frozen=True)
class Split:
    """What the trainings of one seed gave the same test images: logits (trainings, nodes, N)."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.int64]


def rates(folder: StudyFolder, cases_per_cluster: int = 100, num_resamples: int = 200, seed: int = 0) -> list[Rate]:
    """Of a finished A/A study, whose cells must all be there: raises `ConfigError` for another one.

    `cases_per_cluster` is of the cases over splits; within a split, where each costs two bootstraps, a tenth of it.
    """
    random = np.random.default_rng(seed)
    over = _over_splits(_own_aucs(folder), cases_per_cluster, random)
    within: dict[str, dict[str, list[bool]]] = {}
    for split_seed, split in _splits(folder):
        for _ in range(max(1, cases_per_cluster // 10)):
            for analysis, interval in _within_split(split, num_resamples, random).items():
                within.setdefault(analysis, {}).setdefault(str(split_seed), []).append(interval.p_value < ALPHA)
    return [
        _rate("over splits: paired t", over),
        *(_rate(f"within a split: {analysis}", found) for analysis, found in within.items()),
    ]


def _over_splits(aucs: npt.NDArray[np.float64], num_cases: int, random: np.random.Generator) -> Clusters:
    """`aucs` (nodes, seeds, trainings)."""
    num_nodes, num_seeds, num_trainings = aucs.shape
    found: dict[str, list[bool]] = {}
    for node in range(num_nodes):
        for _ in range(num_cases):
            pairs = [_pair(num_trainings, random) for _ in range(num_seeds)]
            first, second = (
                {seed: float(aucs[node, seed, pair[at]]) for seed, pair in enumerate(pairs)} for at in (0, 1)
            )
            found.setdefault(str(node), []).append(paired_difference(first, second, ALPHA).p_value < ALPHA)
    return found


def _within_split(split: Split, num_resamples: int, random: np.random.Generator) -> dict[str, Interval]:
    num_trainings, num_nodes, _ = split.logits.shape
    pairs = np.array([_pair(num_trainings, random) for _ in range(num_nodes)])
    nodes = np.arange(num_nodes)
    first, second = (ArmScores(split.logits[pairs[:, at], nodes], split.labels, split.groups) for at in (0, 1))
    first_aucs, second_aucs = ({node: _auc(arm, node) for node in range(num_nodes)} for arm in (first, second))
    bootstraps: dict[str, Callable[..., Interval]] = {
        "two-way bootstrap": two_way_bootstrap,
        "pooled bootstrap (the paper's)": pooled_bootstrap,
    }
    draw = int(random.integers(1 << 31))
    found = {"paired t": paired_difference(first_aucs, second_aucs, ALPHA)}
    return found | {name: way(first, second, num_resamples, draw, ALPHA) for name, way in bootstraps.items()}


def _auc(arm: ArmScores, node: int) -> float:
    found = roc_auc(arm.logits[node], arm.labels)
    if found is None:
        raise ConfigError(reason="an A/A study needs test images of both classes")
    return found


def _pair(num_trainings: int, random: np.random.Generator) -> tuple[int, int]:
    one, other = random.permutation(num_trainings)[:2]
    return int(one), int(other)


def _rate(analysis: str, found: Clusters) -> Rate:
    """The mean of the clusters' rates, which hold equally many cases."""
    by_cluster = np.array([np.mean(cases) for cases in found.values()])
    error = float(by_cluster.std(ddof=1)) / math.sqrt(len(by_cluster)) if len(by_cluster) > 1 else None
    return Rate(analysis, sum(map(len, found.values())), float(by_cluster.mean()), error)


# --- what the study's folder holds ---


def _own_aucs(folder: StudyFolder) -> npt.NDArray[np.float64]:
    """(nodes, seeds, trainings)."""
    rows = _rows(folder)
    nodes = sorted(next(iter(rows.values())).nodes)
    arms = [arm.name for arm in folder.config.arms]
    found = [[[rows[seed, arm].nodes[node].auc for arm in arms] for seed in folder.config.seeds] for node in nodes]
    if any(auc is None for node in found for seed in node for auc in seed):
        raise ConfigError(reason="an A/A study needs test images of both classes at every node")
    return np.array(found, dtype=np.float64)


def _splits(folder: StudyFolder) -> Iterator[tuple[int, Split]]:
    rows = _rows(folder)
    for seed in folder.config.seeds:
        logits = []
        for arm in folder.config.arms:
            with np.load(folder.scores(rows[seed, arm.name].key)) as scores:
                logits.append(scores["logits"])
                labels, groups = scores["label"], scores["group"]
        yield seed, Split(np.stack(logits), labels, groups)


def _rows(folder: StudyFolder) -> dict[tuple[int, str], CellRow]:
    config = folder.config
    runs = {arm.model_dump_json(exclude={"name", "training_seed_offset"}) for arm in config.arms}
    offsets = {arm.training_seed_offset for arm in config.arms}
    if len(config.scenarios) > 1 or len(runs) > 1 or len(offsets) < max(len(config.arms), MIN_TRAININGS):
        reason = "an A/A study has one scenario, and arms that differ in nothing but their training_seed_offset"
        raise ConfigError(reason=reason)
    rows = {(row.seed, row.arm): row for row in folder.rows().values()}
    missing = len(config.seeds) * len(config.arms) - len(rows)
    if missing:
        raise ConfigError(reason=f"{missing} cells are not finished; `hsl study run` continues with them")
    return rows
