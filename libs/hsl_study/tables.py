"""The tables of a study, made from `results.jsonl` and nothing else. A cell that is missing stays in its row.

A new metric is a line of `METRICS`, a new number of a cell one of `ARM_COLUMNS`, a new verdict on an arm one of
`SUMMARIES`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hsl_study.cells import CellRow, NodeScores
from hsl_study.gap import gap_share
from hsl_study.results import Domains, Results
from hsl_study.statistics import mean_and_sd

Rows = Sequence[CellRow]


@dataclass(frozen=True)
class TextTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Metric:
    """A number of one node's model; `name` is its field of `NodeScores`. Left out of a table where nobody has it."""

    title: str
    name: str
    optional: bool = False

    def of(self, node: NodeScores) -> float | None:
        value: float | None = getattr(node, self.name)
        return value

    def mean(self, row: CellRow, rows: Rows) -> float | None:  # noqa: ARG002 - a column may need the other arms
        return mean_over_nodes(row, self.name)


@dataclass(frozen=True)
class Column:
    """A number of one cell. It is told all rows of the scenario: some numbers compare arms of one seed."""

    title: str
    value: Callable[[CellRow, Rows], float | None]
    optional: bool = False  # left out of a table where nobody has it


@dataclass(frozen=True)
class Summary:
    """What the AUC table says at its end of all seeds of an arm. `title` None: this study has no such column."""

    title: Callable[[Results, str], str | None]  # told the scenario
    text: Callable[[Results, Rows, str], str]


METRICS: tuple[Metric, ...] = (
    Metric("AUC, own domain", "auc"),
    Metric("AUC, all domains", "all_domain_auc"),
    Metric("AUC, unseen domains", "unseen_auc", optional=True),
    Metric("AUPRC", "auprc"),
    Metric("accuracy", "accuracy"),
    Metric("recall", "recall"),
    Metric("precision", "precision"),
)
ARM_COLUMNS: tuple[Column, ...] = (
    *(Column(metric.title, metric.mean, metric.optional) for metric in METRICS),
    Column("sd of mixture, ‰ of skip", lambda row, _: _per_mille(row.mixture_ratio), optional=True),
)


def _mean_over_seeds(metric: str) -> Callable[[Results, Rows, str], str]:
    return lambda _, rows, arm: mean_sd([mean_over_nodes(row, metric) for row in rows if row.arm == arm])


def _titled(text: str, domains: Domains) -> Callable[[Results, str], str | None]:
    """With the images it stands on; None where there are none."""

    def title(results: Results, scenario: str) -> str | None:
        if domains == "unseen" and not has_unseen(results.of(scenario)):
            return None
        counts = _scored(results, scenario, domains)
        return f"{text} ({counts} positive)" if counts else text

    return title


def _gap_title(results: Results, _scenario: str) -> str | None:
    gap = results.config.gap
    return None if gap is None else f"gap from {gap[0]} to {gap[1]}"


def _gap(results: Results, rows: Rows, arm: str) -> str:
    """Share of the gap between the study's two references, in its primary AUC."""
    primary = results.config.primary
    return gap_share(*(by_seed(rows, name, primary) for name in (arm, *(results.config.gap or ())))).text()


SUMMARIES: tuple[Summary, ...] = (
    Summary(lambda *_: "mean, own domain", _mean_over_seeds("auc")),
    Summary(_titled("mean, all domains", "all"), _mean_over_seeds("all_domain_auc")),
    Summary(_titled("mean, unseen domains", "unseen"), _mean_over_seeds("unseen_auc")),
    Summary(_gap_title, _gap),
)


def auc_table(results: Results, scenario: str) -> TextTable:
    """AUC of each node's model on its own domain, mean and sd over seeds, then the summaries."""
    rows = results.of(scenario)
    nodes = node_names(rows)
    summaries = {title: one for one in SUMMARIES if (title := one.title(results, scenario)) is not None}
    lines = []
    for arm, own in _by_arm(results, rows):
        if not own:
            lines.append((arm, "0", *[_why_missing(results, scenario, arm)] * (len(nodes) + len(summaries))))
            continue
        cells = [mean_sd([row.nodes[node].auc for row in own]) for node in nodes]
        lines.append((arm, str(len(own)), *cells, *(one.text(results, rows, arm) for one in summaries.values())))
    heads = [f"{node} ({_positives(rows, node)} positive)" for node in nodes]
    columns = ("arm", "seeds", *heads, *summaries)
    return TextTable(f"{scenario}: AUC, mean ± sd over seeds (test images of each node)", columns, tuple(lines))


def metrics_table(results: Results, scenario: str) -> TextTable:
    """Every column of an arm, means over nodes; undefined values are left out and counted."""
    rows = results.of(scenario)
    wanted = [one for one in ARM_COLUMNS if not one.optional or any(one.value(row, rows) is not None for row in rows)]
    lines = [
        (arm, str(len(own)), *(mean_sd([column.value(row, rows) for row in own]) for column in wanted))
        for arm, own in _by_arm(results, rows)
        if own
    ]
    columns = ("arm", "seeds", *(column.title for column in wanted))
    return TextTable(f"{scenario}: mean over nodes, ± sd over seeds; threshold 0.5", columns, tuple(lines))


def node_table(results: Results, scenario: str) -> TextTable:
    """Every metric of every node and arm, with the positive images it stands on."""
    rows = results.of(scenario)
    wanted = [one for one in METRICS if not one.optional or any(one.mean(row, rows) is not None for row in rows)]
    lines = [
        (
            node,
            _positives(rows, node),
            arm,
            *(mean_sd([metric.of(row.nodes[node]) for row in own]) for metric in wanted),
        )
        for node in node_names(rows)
        for arm, own in _by_arm(results, rows)
        if own
    ]
    columns = ("node", "n positive", "arm", *(metric.title for metric in wanted))
    return TextTable(f"{scenario}: each node's model, mean ± sd over seeds; threshold 0.5", columns, tuple(lines))


def domain_table(results: Results, scenario: str) -> TextTable | None:
    """AUC within each domain, mean over the nodes' models; where there are unseen domains, the AUC of the nodes' mean
    probability on them as well (methods.md 1.7). None where the domains are the nodes themselves.
    """
    rows = results.of(scenario)
    names = list(dict.fromkeys(name for row in rows for node in row.nodes.values() for name in node.domain_aucs))
    if set(names) <= set(node_names(rows)):
        return None
    ensemble = ("unseen, mean probability",) if has_unseen(rows) else ()
    lines = []
    for arm, own in _by_arm(results, rows):
        if own:
            found = [[[node.domain_aucs.get(name) for node in row.nodes.values()] for row in own] for name in names]
            cells = [mean_sd([_mean(nodes) for nodes in seeds]) for seeds in found]
            together = [mean_sd([row.unseen_ensemble_auc for row in own]) for _ in ensemble]
            lines.append((arm, str(len(own)), *cells, *together))
    title = f"{scenario}: AUC within each domain, mean over nodes, ± sd over seeds"
    return TextTable(title, ("arm", "seeds", *names, *ensemble), tuple(lines))


def gradient_table(results: Results, kind: str) -> TextTable:
    """A kind of scenario that has ratios: AUC of each node by arm over the ratios."""
    scenarios = gradient(results, kind)
    by_ratio = {ratio: results.of(title) for ratio, title in scenarios.items()}
    nodes = sorted({node for rows in by_ratio.values() for node in node_names(rows)})
    lines = []
    for node in nodes:
        for arm in results.config.arms:
            cells = []
            for ratio, rows in by_ratio.items():
                own = [row for row in rows if row.arm == arm.name and node in row.nodes]
                found = mean_sd([row.nodes[node].auc for row in own]) if own else ""
                cells.append(found or _why_missing(results, scenarios[ratio], arm.name))
            lines.append((node, arm.name, *cells))
        lines.append((node, "n positive", *(_positives(rows, node) for rows in by_ratio.values())))
    columns = ("node", "arm", *(f"{ratio}:1" for ratio in scenarios))
    return TextTable(f"{kind}: AUC, own domain, by ratio; mean ± sd over seeds", columns, tuple(lines))


def missing_table(results: Results) -> TextTable:
    """Every cell without a result, seeds of one reason together."""
    done = results.rows
    reasons = {(cell.scenario, cell.arm, cell.seed): cell.reason for cell in results.missing}
    grouped: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for scenario in results.config.scenarios:
        for arm in results.config.arms:
            for seed in results.config.seeds:
                key = (scenario.title, arm.name, seed)
                if key not in done:
                    grouped[scenario.title, arm.name, reasons.get(key, "not run yet")].append(seed)
    lines = [(scenario, arm, ", ".join(map(str, seeds)), why) for (scenario, arm, why), seeds in grouped.items()]
    return TextTable("Cells without a result", ("scenario", "arm", "seeds", "reason"), tuple(lines))


def environment_table(results: Results) -> TextTable:
    """What the cells ran with; several lines where they differ, for then they need not have equal bits."""
    grouped: dict[tuple[str, int], int] = defaultdict(int)
    for row in results.rows.values():
        grouped[", ".join(f"{name} {value}" for name, value in sorted(row.versions.items())), row.num_threads] += 1
    lines = [(told, str(threads), str(cells)) for (told, threads), cells in grouped.items()]
    return TextTable("What the cells ran with", ("versions", "threads", "cells"), tuple(lines))


def scenario_names(results: Results) -> list[str]:
    """In the study's order, whether finished, missing or neither."""
    return [scenario.title for scenario in results.config.scenarios]


def gradients(results: Results) -> list[str]:
    """The kinds of scenario that the study has at two ratios or more."""
    kinds = dict.fromkeys(scenario.kind for scenario in results.config.scenarios if scenario.ratio is not None)
    return [kind for kind in kinds if len(gradient(results, kind)) > 1]


def gradient(results: Results, kind: str) -> dict[int, str]:
    """Ratio -> title of its scenario, from mild to strong."""
    found = {one.ratio: one.title for one in results.config.scenarios if one.kind == kind and one.ratio is not None}
    return dict(sorted(found.items()))


def node_names(rows: Rows) -> list[str]:
    return sorted({node for row in rows for node in row.nodes})


def mean_over_nodes(row: CellRow, metric: str) -> float | None:
    """Those where the metric is undefined do not count. None where it is nowhere defined."""
    return _mean([getattr(node, metric) for node in row.nodes.values()])


def has_unseen(rows: Rows) -> bool:
    return any(node.unseen_auc is not None for row in rows for node in row.nodes.values())


def by_seed(rows: Rows, arm: str, metric: str) -> dict[int, float]:
    return {row.seed: value for row in rows if row.arm == arm and (value := mean_over_nodes(row, metric)) is not None}


def _by_arm(results: Results, rows: Rows) -> Iterable[tuple[str, list[CellRow]]]:
    for arm in results.config.arms:
        yield arm.name, [row for row in rows if row.arm == arm.name]


def mean_sd(values: Sequence[float | None]) -> str:
    """`0.712 ± 0.010`; what is undefined is left out and counted."""
    defined = [value for value in values if value is not None]
    if not defined:
        return "undefined"
    mean, sd = mean_and_sd(defined)
    text = f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"
    missing = len(values) - len(defined)
    return f"{text} ({missing} undefined)" if missing else text


def _positives(rows: Rows, node: str) -> str:
    """`12 of 90`; a range where seeds differ."""
    found = [row.nodes[node] for row in rows if node in row.nodes]
    positive = {one.num_positive for one in found}
    total = {one.num_positive + one.num_negative for one in found}
    return f"{_span(positive)} of {_span(total)}" if found else ""


def _scored(results: Results, scenario: str, domains: Domains) -> str:
    """`12 of 90` of the images that every node is scored on; empty without a score file."""
    for arm in results.config.arms:
        if found := results.scores(scenario, arm.name).values():
            labels = [one.panel(one.nodes[0], domains).labels for one in found]
            return f"{_span({int(one.sum()) for one in labels})} of {_span({len(one) for one in labels})}"
    return ""


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _per_mille(ratio: float | None) -> float | None:
    return None if ratio is None else 1000.0 * ratio


def _span(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"  # noqa: RUF001 - a range, as printed


def _why_missing(results: Results, scenario: str, arm: str) -> str:
    reasons = {cell.reason for cell in results.missing if (cell.scenario, cell.arm) == (scenario, arm)}
    return min(reasons) if reasons else "not run yet"
