"""One self-contained HTML page of a study: tables, a figure a scenario, configuration, deviations from the paper."""

import base64
import html
import io
from collections.abc import Iterator, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from hsl_study.cells import CellRow
from hsl_study.folder import StudyFolder
from hsl_study.tables import TextTable, auc_table, contrast_table, domain_table, metrics_table, scenario_names

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 2rem}td,th{padding:.25rem .7rem;text-align:left;"
    "border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}th{background:#f5f5f5}"
    "pre{background:#f5f5f5;padding:1rem;overflow:auto}img{max-width:100%}caption{text-align:left;font-weight:600}"
)
DEVIATIONS = (
    "Splits keep patients and look-alike images whole unless the mode is `paper`; the published splits are by image.",
    "Every arm has the same sampler, steps, selection and schedule; the paper does not say so of its baselines.",
    "The primary analysis is over training seeds; the published bootstrap pools predictions, ignoring training noise.",
    "Integer counters are not averaged; every test image is scored once, unbalanced (methods.md H1, H4).",
)


def html_report(folder: StudyFolder) -> str:
    """Raises nothing for missing cells: they are rows with their reason."""
    parts = [f"<h1>Study {html.escape(folder.config.name)}</h1>", _summary(folder)]
    for scenario in scenario_names(folder):
        parts.append(f"<h2>{html.escape(scenario)}</h2>")
        parts += [_table(make(folder, scenario)) for make in (auc_table, domain_table, contrast_table, metrics_table)]
        if (picture := _boxes(folder, scenario)) is not None:
            parts.append(f'<img alt="AUC of each arm and node" src="data:image/png;base64,{picture}">')
    parts.append("<h2>Deviations from the paper</h2><ul>")
    parts += [f"<li>{html.escape(line)}</li>" for line in DEVIATIONS]
    parts.append(f"</ul><h2>Configuration</h2><pre>{html.escape(folder.config.model_dump_json(indent=2))}</pre>")
    title = html.escape(folder.config.name)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return "\n".join([head, *parts, "</html>"])


def _summary(folder: StudyFolder) -> str:
    rows = list(folder.rows().values())
    num_cells = len(folder.config.scenarios) * len(folder.config.arms) * len(folder.config.seeds)
    versions = ", ".join(sorted({f"{name} {version}" for row in rows for name, version in row.versions.items()}))
    hours = sum(row.seconds for row in rows) / 3600
    return f"<p>{len(rows)} of {num_cells} cells, {hours:.2f} hours of training; {html.escape(versions)}.</p>"


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption><tr>{head}</tr>{rows}</table>"


def _boxes(folder: StudyFolder, scenario: str) -> str | None:
    """A box for each node and arm over the seeds, as base64 PNG. None where nothing is defined."""
    rows = [row for row in folder.rows().values() if row.scenario == scenario]
    nodes = sorted({node for row in rows for node in row.nodes})
    arms = [arm.name for arm in folder.config.arms if any(row.arm == arm.name for row in rows)]
    if not rows:
        return None
    figure = Figure(figsize=(max(6.0, 1.1 * len(nodes) * max(1, len(arms)) / 2), 4.0), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        values = [list(_aucs(rows, arm, node)) for node in nodes]
        places = [index + (number - (len(arms) - 1) / 2) * width for index in range(len(nodes))]
        boxes = axes.boxplot(values, positions=places, widths=0.9 * width, patch_artist=True, manage_ticks=False)
        for box in boxes["boxes"]:
            box.set_facecolor(colours[number % len(colours)])
        axes.plot([], [], "s", color=colours[number % len(colours)], label=arm)
    axes.set_xticks(range(len(nodes)), nodes, rotation=20)
    axes.set_ylabel("AUC, own test images")
    axes.legend(fontsize=8, ncols=2)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return base64.b64encode(file.getvalue()).decode()


def _aucs(rows: Sequence[CellRow], arm: str, node: str) -> Iterator[float]:
    for row in rows:
        if row.arm == arm and (auc := row.nodes[node].auc) is not None:
            yield auc
