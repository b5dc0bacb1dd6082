"""The figures of a report. Each function gives one `Figure`, or None where there is nothing to draw.

boxes          AUC of every node and arm over the seeds
lines          AUC over the ratios of a gradient, a panel a node, bands over the seeds
roc            vertical averages over the seeds with bands, a panel a node
violins        scores of either class by arm
convergence    validation AUC by round and arm
"""

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsl_study.cells import CellRow
from hsl_study.curves import Band, convergence_band, roc_band
from hsl_study.results import Results
from hsl_study.tables import gradient, node_names

MAX_VIOLIN_SCORES = 4000  # of one violin; a density estimate of more takes seconds and looks the same
Values = Sequence[float]


def png(figure: Figure) -> str:
    """Base64, for an `img` of a page that stands alone."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return base64.b64encode(file.getvalue()).decode()


def boxes(results: Results, scenario: str) -> Figure | None:
    rows = results.of(scenario)
    nodes, arms = node_names(rows), _arms(results, rows)
    if not rows:
        return None
    figure = Figure(figsize=(max(6.0, 0.35 * len(nodes) * len(arms) + 2), 4.0), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        values = [_aucs(rows, arm, node) for node in nodes]
        places = [index + (number - (len(arms) - 1) / 2) * width for index in range(len(nodes))]
        drawn = axes.boxplot(values, positions=places, widths=0.9 * width, patch_artist=True, manage_ticks=False)
        for box in drawn["boxes"]:
            box.set_facecolor(_colour(results, arm))
        axes.plot([], [], "s", color=_colour(results, arm), label=arm)
    axes.set_xticks(range(len(nodes)), nodes, rotation=20)
    axes.set_ylabel("AUC, own test images")
    _legend(figure, axes)
    return figure


def lines(results: Results, kind: str) -> Figure | None:
    """`kind`: label-skew or quantity-skew; the ratios stand at equal distances, as the paper draws them."""
    by_ratio = {ratio: results.of(title) for ratio, title in gradient(results, kind).items()}
    nodes = node_names([row for rows in by_ratio.values() for row in rows])
    if not nodes:
        return None
    figure, panels = _panels(nodes)
    for node, axes in zip(nodes, panels, strict=True):
        for arm in _arms(results, [row for rows in by_ratio.values() for row in rows]):
            found = {at: _aucs(rows, arm, node) for at, rows in enumerate(by_ratio.values())}
            found = {at: values for at, values in found.items() if values}
            if found:
                _draw(axes, _band_of(found), _colour(results, arm), arm, "o-")
        axes.set_xticks(range(len(by_ratio)), [f"{ratio}:1" for ratio in by_ratio])
        axes.set_title(node)
        axes.set_xlabel("ratio")
        axes.set_ylabel("AUC, own test images")
    _legend(figure, panels[0])
    return figure


def roc(results: Results, scenario: str) -> Figure | None:
    """Over the seeds whose score files are there."""
    rows = results.of(scenario)
    nodes = node_names(rows)
    found: dict[str, list[tuple[str, Band]]] = {node: [] for node in nodes}
    for arm in _arms(results, rows):
        scores = results.scores(scenario, arm).values()
        for node in nodes:
            band = roc_band(one.panel(node, "own") for one in scores if node in one.nodes)
            if band is not None:
                found[node].append((arm, band))
    drawn = [node for node in nodes if found[node]]
    if not drawn:
        return None
    figure, panels = _panels(drawn)
    for node, axes in zip(drawn, panels, strict=True):
        for arm, band in found[node]:
            _draw(axes, band, _colour(results, arm), arm, "-")
        axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
        axes.set_title(node)
        axes.set_xlabel("false-positive rate")
        axes.set_ylabel("true-positive rate")
    _legend(figure, panels[0])
    return figure


def violins(results: Results, scenario: str) -> Figure | None:
    """Probabilities of all nodes' own test images and all seeds, the negative class left, the positive right."""
    rows = results.of(scenario)
    sides: dict[str, tuple[Any, Any]] = {}
    for arm in _arms(results, rows):
        panels = [panel for scores in results.scores(scenario, arm).values() for panel in scores.panels("own")]
        if panels:
            labels = np.concatenate([panel.labels for panel in panels])
            logits = np.concatenate([panel.logits for panel in panels]).astype(np.float64)
            probabilities = 0.5 * (1.0 + np.tanh(0.5 * logits))
            sides[arm] = (_thinned(probabilities[labels == 0]), _thinned(probabilities[labels == 1]))
    if not any(len(side) > 1 for both in sides.values() for side in both):
        return None
    figure = Figure(figsize=(max(6.0, 1.2 * len(sides) + 1), 4.0), layout="constrained")
    axes = figure.subplots()
    task = results.config.task
    for side, (name, colour) in enumerate(((task.negative_class, "tab:blue"), (task.positive_class, "tab:red"))):
        values = {at: both[side] for at, both in enumerate(sides.values()) if np.ptp(both[side]) > 0}
        where = [at + (0.2 if side else -0.2) for at in values]
        drawn = axes.violinplot(list(values.values()), where, widths=0.36, showmedians=True)
        for body in cast("list[Any]", drawn["bodies"]):
            body.set_facecolor(colour)
        for part in ("cbars", "cmins", "cmaxes", "cmedians"):
            drawn[part].set_color(colour)
        axes.plot([], [], "s", color=colour, label=name)
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(sides)), list(sides), rotation=20)
    axes.set_ylabel("probability of the positive class")
    _legend(figure, axes)
    return figure


def convergence(results: Results, scenario: str) -> Figure | None:
    rows = results.of(scenario)
    bands = {arm: convergence_band([row for row in rows if row.arm == arm]) for arm in _arms(results, rows)}
    if not any(bands.values()):
        return None
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for arm, band in bands.items():
        if band is not None:
            _draw(axes, band, _colour(results, arm), arm, ".-")
    axes.set_xlabel("round (0: the initial weights)")
    axes.set_ylabel("validation AUC, mean over nodes")
    _legend(figure, axes)
    return figure


SCENARIO_FIGURES: tuple[tuple[str, Callable[[Results, str], Figure | None]], ...] = (
    ("AUC of each node and arm over the seeds", boxes),
    ("Validation AUC by round; mean and middle 95 % of the seeds", convergence),
    ("ROC of each node's own test images; mean and middle 95 % of the seeds", roc),
    ("Scores of each class by arm, all nodes and seeds", violins),
)


def _arms(results: Results, rows: Sequence[CellRow]) -> list[str]:
    there = {row.arm for row in rows}
    return [arm.name for arm in results.config.arms if arm.name in there]


def _colour(results: Results, arm: str) -> Any:
    """The same in all figures of a study."""
    number = [one.name for one in results.config.arms].index(arm)
    return mpl.colormaps["tab20"]((2 * number + number // 10) % 20)  # the ten strong colours before the ten pale ones


def _aucs(rows: Sequence[CellRow], arm: str, node: str) -> list[float]:
    mine = [row.nodes[node] for row in rows if row.arm == arm and node in row.nodes]
    return [one.auc for one in mine if one.auc is not None]


def _band_of(found: dict[int, list[float]]) -> Band:
    low, high = (np.array([np.quantile(values, share) for values in found.values()]) for share in (0.025, 0.975))
    return Band(np.array(list(found), float), np.array([np.mean(values) for values in found.values()]), low, high)


def _draw(axes: Axes, band: Band, colour: Any, label: str, style: str) -> None:
    axes.plot(band.at, band.mean, style, color=colour, label=label, linewidth=1.5, markersize=4)
    axes.fill_between(band.at, band.low, band.high, color=colour, alpha=0.15, linewidth=0)


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A row of up to three axes, one for each title; what the last row does not need is gone."""
    columns = min(3, len(titles))
    num_rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(3.8 * columns + 1.5, 3.4 * num_rows), layout="constrained")
    grid = [axes for row in figure.subplots(num_rows, columns, squeeze=False) for axes in row]
    for axes in grid[len(titles) :]:
        axes.remove()
    return figure, grid[: len(titles)]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)


def _thinned(values: Any) -> Any:
    """Evenly, of the sorted scores, so that it is the same each time."""
    if len(values) <= MAX_VIOLIN_SCORES:
        return values
    return np.sort(values)[np.linspace(0, len(values) - 1, MAX_VIOLIN_SCORES).astype(int)]
