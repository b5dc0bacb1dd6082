"""What a study concludes about pairs of arms: the primary analysis, the two-way bootstrap, the paper's bootstrap.

The family of Holm's correction is every declared contrast in every scenario of the study. Where none is declared, the
first arm is compared with each of the others, and everything is exploratory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hsl_study.results import CellScores, Domains, Results
from hsl_study.statistics import (
    Interval,
    holm,
    mean_and_sd,
    paired_difference,
    pooled_panels,
    smallest_detectable,
    two_way_panels,
)
from hsl_study.tables import TextTable, by_seed, has_unseen, node_names, scenario_names

Pair = tuple[str, str]
MetricName = Literal["auc", "all_domain_auc", "unseen_auc"]
_DOMAINS: dict[MetricName, Domains] = {"auc": "own", "all_domain_auc": "all", "unseen_auc": "unseen"}
_WORDS: dict[MetricName, str] = {
    "auc": "own-domain AUC",
    "all_domain_auc": "all-domain AUC",
    "unseen_auc": "AUC of unseen domains",
}
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Paired:
    """One difference over the seeds both arms have. `detectable`: at 0.05 two-sided with a power of 0.8."""

    interval: Interval
    num_seeds: int
    sd: float
    detectable: float


def contrast_table(results: Results, scenario: str) -> TextTable:
    """Paired differences of the primary metric by seed. Declared contrasts carry Holm's p, others are exploratory."""
    metric, adjusted = results.config.primary, adjusted_p(results)
    lines = []
    for pair in pairs(results):
        name = f"{pair[0]} - {pair[1]}"
        found = paired(results, scenario, pair, metric)
        if isinstance(found, str):
            lines.append((name, found, "", "", "", "", "", ""))
            continue
        holms = adjusted.get((scenario, pair))
        kind = "exploratory" if holms is None else f"declared, Holm p {holms:.3f}"
        numbers = (str(found.num_seeds), f"{found.sd:.4f}", f"{found.detectable:.3f}")
        lines.append((name, *_told(found.interval), *numbers, kind))
    columns = ("difference", "mean", "95 % interval", "p", "seeds", "paired sd", "smallest detectable", "kind")
    return TextTable(f"{scenario}: paired differences of the mean {_WORDS[metric]} over seeds", columns, tuple(lines))


def bootstrap_table(results: Results, scenario: str) -> TextTable:
    """Would it hold on other images as well? Seeds and image groups drawn anew, for either AUC."""
    lines = []
    for pair in _main_pairs(results):
        for metric, domains in _DOMAINS.items():
            if domains == "unseen" and not has_unseen(results.of(scenario)):
                continue

            def resampled(first: list[CellScores], second: list[CellScores], which: Domains = domains) -> Interval:
                sides = [[scores.panels(which) for scores in arm] for arm in (first, second)]
                return two_way_panels(sides[0], sides[1], NUM_RESAMPLES)

            name = f"{pair[0]} - {pair[1]}"
            lines.append((name, _WORDS[metric], *_bootstrapped(results, scenario, pair, resampled)))
    columns = ("difference", "of", "mean", "95 % interval", "p", "seeds", "undefined resamples")
    title = f"{scenario}: two-way bootstrap, {NUM_RESAMPLES} draws of seeds and of image groups within their classes"
    return TextTable(title, columns, tuple(lines))


def pooled_table(results: Results, scenario: str) -> TextTable:
    """The paper's analysis, node by node."""
    lines = []
    for pair in _main_pairs(results):
        for node in node_names(results.of(scenario)):

            def resampled(first: list[CellScores], second: list[CellScores], at: str = node) -> Interval:
                sides = [[scores.panel(at, "own") for scores in arm] for arm in (first, second)]
                return pooled_panels(sides[0], sides[1], NUM_RESAMPLES)

            told = _bootstrapped(results, scenario, pair, resampled)
            lines.append((f"{pair[0]} - {pair[1]}", node, *told[:-1]))
    columns = ("difference", "node", "AUC of pooled scores", "95 % interval", "p", "seeds")
    caveat = "secondary: it ignores the noise of training, so its intervals are too short"
    title = f"{scenario}: the paper's pooled bootstrap; {caveat}"
    return TextTable(title, columns, tuple(lines))


def pairs(results: Results) -> list[Pair]:
    """The declared ones first, then the first arm against each other."""
    names = [arm.name for arm in results.config.arms]
    return list(dict.fromkeys((*results.config.contrasts, *((names[0], name) for name in names[1:]))))


def paired(results: Results, scenario: str, pair: Pair, metric: MetricName) -> Paired | str:
    """Or the sentence why there is none."""
    rows = results.of(scenario)
    first, second = (by_seed(rows, arm, metric) for arm in pair)
    try:
        interval = paired_difference(first, second)
    except ValueError as error:
        return str(error)
    differences = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    sd = mean_and_sd(differences)[1] or 0.0
    return Paired(interval, len(differences), sd, smallest_detectable(sd, len(differences)))


def adjusted_p(results: Results) -> dict[tuple[str, Pair], float]:
    """Holm's p of every declared contrast in every scenario that has one."""
    found: dict[str, tuple[tuple[str, Pair], float]] = {}
    for scenario in scenario_names(results):
        for pair in results.config.contrasts:
            result = paired(results, scenario, pair, results.config.primary)
            if isinstance(result, Paired):
                found[f"{scenario} {pair}"] = (scenario, pair), result.interval.p_value
    adjusted = holm({name: p_value for name, (_, p_value) in found.items()})
    return {found[name][0]: p_value for name, p_value in adjusted.items()}


def _main_pairs(results: Results) -> list[Pair]:
    return list(results.config.contrasts) or pairs(results)


def _bootstrapped(
    results: Results,
    scenario: str,
    pair: Pair,
    resampled: Callable[[list[CellScores], list[CellScores]], Interval],
) -> tuple[str, str, str, str, str]:
    """Cells of a line, over the seeds whose score files both arms have."""
    first, second = (results.scores(scenario, arm) for arm in pair)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return ("no seed whose score files both arms have", "", "", "0", "")
    try:
        interval = resampled([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    except ValueError as error:
        return (str(error), "", "", str(len(seeds)), "")
    return (*_told(interval), str(len(seeds)), f"{interval.undefined:.1%}")


def _told(interval: Interval) -> tuple[str, str, str]:
    return f"{interval.estimate:+.3f}", f"{interval.low:+.3f} to {interval.high:+.3f}", f"{interval.p_value:.3f}"
