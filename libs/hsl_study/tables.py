"""The tables of a study, made from `results.jsonl` and nothing else. A cell that is missing stays in its row."""

from collections.abc import Sequence
from dataclasses import dataclass

from hsl_study.cells import CellRow, NodeScores
from hsl_study.folder import StudyFolder
from hsl_study.gap import gap_share
from hsl_study.statistics import Interval, holm, mean_and_sd, paired_difference

Rows = Sequence[CellRow]


@dataclass(frozen=True)
class TextTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def auc_table(folder: StudyFolder, scenario: str) -> TextTable:
    """AUC of each node's model on its own domain, mean and sd over seeds, then over all domains, then over unseen ones.

    Over several domains the scores are pooled, so that a shift between domains costs; `domain_table` has them apart.
    """
    rows = _of(folder, scenario)
    nodes = sorted({node for row in rows for node in row.nodes})
    means = {"auc": "mean, own domain", "all_domain_auc": "mean, all domains"}
    if any(node.unseen_auc is not None for row in rows for node in row.nodes.values()):
        means["unseen_auc"] = "mean, unseen domains"
    gap = () if folder.config.gap is None else ("gap from {} to {}".format(*folder.config.gap),)
    lines = []
    for arm in folder.config.arms:
        own = [row for row in rows if row.arm == arm.name]
        if not own:
            num_cells = len(nodes) + len(means) + len(gap)
            lines.append((arm.name, "0", *[_why_missing(folder, scenario, arm.name)] * num_cells))
            continue
        cells = [_mean_sd([row.nodes[node].auc for row in own]) for node in nodes]
        overall = [_mean_sd([_mean_of(row, name) for row in own]) for name in means]
        lines.append((arm.name, str(len(own)), *cells, *overall, *_gap(folder, rows, arm.name)))
    positives = {node: rows[0].nodes[node] for node in nodes} if rows else {}
    heads = [f"{node} ({_counts(positives[node])})" for node in nodes]
    columns = ("arm", "seeds", *heads, *means.values(), *gap)
    title = f"{scenario}: AUC, mean ± sd over seeds (test positives:negatives of the first seed)"
    return TextTable(title, columns, tuple(lines))


def _gap(folder: StudyFolder, rows: Rows, arm: str) -> tuple[str, ...]:
    """The cell of the column, where the study names its two references: share of the gap in mean own-domain AUC."""
    if folder.config.gap is None:
        return ()
    return (gap_share(*(_by_seed(rows, name) for name in (arm, *folder.config.gap))).text(),)


def domain_table(folder: StudyFolder, scenario: str) -> TextTable:
    """AUC within each domain, mean over the nodes' models; the last is the AUC of their mean probability on the unseen
    (methods.md 1.7).
    """
    rows = _of(folder, scenario)
    domains = list(dict.fromkeys(name for row in rows for node in row.nodes.values() for name in node.domain_aucs))
    lines = []
    for arm in folder.config.arms:
        if own := [row for row in rows if row.arm == arm.name]:
            cells = [_mean_sd([_mean_defined(_within(row, domain)) for row in own]) for domain in domains]
            ensemble = [row.unseen_ensemble_auc for row in own]
            lines.append((arm.name, *cells, "" if ensemble == [None] * len(own) else _mean_sd(ensemble)))
    columns = ("arm", *domains, "unseen, mean probability")
    return TextTable(f"{scenario}: AUC within each domain, mean over nodes, ± sd over seeds", columns, tuple(lines))


def contrast_table(folder: StudyFolder, scenario: str) -> TextTable:
    """Paired differences of the node-mean AUC by seed. Declared contrasts carry Holm's p, others are exploratory."""
    rows = _of(folder, scenario)
    declared = set(folder.config.contrasts)
    first = folder.config.arms[0].name
    pairs = dict.fromkeys((*folder.config.contrasts, *((first, arm.name) for arm in folder.config.arms[1:])))
    found: dict[tuple[str, str], Interval | str] = {}
    for pair in pairs:
        try:
            found[pair] = paired_difference(_by_seed(rows, pair[0]), _by_seed(rows, pair[1]))
        except ValueError as error:
            found[pair] = str(error)
    adjusted = holm({"-".join(p): i.p_value for p, i in found.items() if p in declared and isinstance(i, Interval)})
    lines = []
    for pair, interval in found.items():
        name = f"{pair[0]} - {pair[1]}"
        if isinstance(interval, str):
            lines.append((name, interval, "", "", ""))
            continue
        kind = f"declared, Holm p {adjusted['-'.join(pair)]:.3f}" if pair in declared else "exploratory"
        span = f"{interval.low:+.3f} to {interval.high:+.3f}"
        lines.append((name, f"{interval.estimate:+.3f}", span, f"{interval.p_value:.3f}", kind))
    columns = ("difference", "mean", "95 % interval over seeds", "p", "kind")
    return TextTable(f"{scenario}: paired differences of the mean own-domain AUC", columns, tuple(lines))


def metrics_table(folder: StudyFolder, scenario: str) -> TextTable:
    """The other metrics, means over nodes and seeds; undefined values are left out and counted."""
    names = ("auprc", "accuracy", "recall", "precision")
    rows = _of(folder, scenario)
    lines = []
    for arm in folder.config.arms:
        own = [row for row in rows if row.arm == arm.name]
        if own:
            lines.append((arm.name, *(_mean_sd([_mean_of(row, name) for row in own]) for name in names)))
    columns = ("arm", "AUPRC", "accuracy", "recall", "precision")
    return TextTable(f"{scenario}: mean over nodes, ± sd over seeds; threshold 0.5", columns, tuple(lines))


def scenario_names(folder: StudyFolder) -> list[str]:
    found = [*(row.scenario for row in folder.rows().values()), *(cell.scenario for cell in folder.missing())]
    return list(dict.fromkeys(sorted(found)))


def _of(folder: StudyFolder, scenario: str) -> list[CellRow]:
    return [row for _, row in sorted(folder.rows().items()) if row.scenario == scenario]


def _by_seed(rows: Rows, arm: str) -> dict[int, float]:
    return {row.seed: auc for row in rows if row.arm == arm and (auc := _mean_of(row, "auc")) is not None}


def _mean_of(row: CellRow, metric: str) -> float | None:
    """Over nodes; those where the metric is undefined do not count. None where it is nowhere defined."""
    return _mean_defined([getattr(node, metric) for node in row.nodes.values()])


def _within(row: CellRow, domain: str) -> list[float | None]:
    return [node.domain_aucs.get(domain) for node in row.nodes.values()]


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _mean_sd(values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    if not defined:
        return "undefined"
    mean, sd = mean_and_sd(defined)
    text = f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"
    missing = len(values) - len(defined)
    return f"{text} ({missing} undefined)" if missing else text


def _counts(node: NodeScores) -> str:
    return f"{node.num_positive}:{node.num_negative}"


def _why_missing(folder: StudyFolder, scenario: str, arm: str) -> str:
    reasons = {cell.reason for cell in folder.missing() if (cell.scenario, cell.arm) == (scenario, arm)}
    return min(reasons) if reasons else "not run yet"
