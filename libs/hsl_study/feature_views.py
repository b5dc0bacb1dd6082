"""Features of all nodes before and after training: a table of numbers over the seeds, and t-SNE of the first seed."""

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsl_study.projections import Features, mmd, node_accuracy, reduced, tsne
from hsl_study.results import CellFeatures, Results
from hsl_study.tables import TextTable, mean_sd

WHEN = ("before", "after")


def features_table(results: Results, scenario: str) -> TextTable | None:
    """Node-classifier accuracy and MMD of each arm. None where no cell kept features."""
    lines = []
    nodes = 0
    for arm in results.config.arms:
        found = [one for _, one in results.features(scenario, arm.name)]
        if not found:
            continue
        nodes = len(found[0].nodes)
        spaces = {when: [reduced(getattr(one, when)) for one in found] for when in WHEN}
        cells = [
            mean_sd([number(space, one.node) for space, one in zip(spaces[when], found, strict=True)])
            for number in (node_accuracy, mmd)
            for when in WHEN
        ]
        lines.append((arm.name, str(len(found)), *cells))
    if not lines:
        return None
    heads = [f"{name}, {when}" for name in (f"node classifier (chance {1 / nodes:.3f})", "MMD") for when in WHEN]
    title = f"{scenario}: how far an image's features give away its node, before and after training; ± sd over seeds"
    return TextTable(title, ("arm", "seeds", *heads), tuple(lines))


def tsne_figure(results: Results, scenario: str) -> Figure | None:
    """A row an arm, before and after; colour by node, crosses the positive class. The first seed that has features."""
    found = {arm.name: next(results.features(scenario, arm.name), None) for arm in results.config.arms}
    drawn = {arm: seed_and_features for arm, seed_and_features in found.items() if seed_and_features is not None}
    if not drawn:
        return None
    figure = Figure(figsize=(9.0, 3.6 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), 2, squeeze=False)
    for line, (arm, (seed, features)) in zip(grid, drawn.items(), strict=True):
        for axes, when in zip(line, WHEN, strict=True):
            space = reduced(getattr(features, when))
            accuracy = node_accuracy(space, features.node)
            told = "undefined" if accuracy is None else f"{accuracy:.2f}"
            axes.set_title(f"{arm}, {when} training (seed {seed}); node classifier {told}", fontsize=9)
            _scatter(axes, tsne(space), features)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _scatter(axes: Axes, places: Features | None, features: CellFeatures) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if places is None:
        axes.text(0.5, 0.5, "too few images", ha="center", transform=axes.transAxes)
        return
    for number, node in enumerate(features.nodes):
        colour: Any = mpl.colormaps["tab10"](number % 10)
        for label, marker in ((0, "."), (1, "x")):
            where = (features.node == number) & (features.labels == label)
            axes.scatter(places[where, 0], places[where, 1], s=14, marker=marker, color=colour, linewidths=0.8)
        axes.plot([], [], ".", color=colour, label=node)
