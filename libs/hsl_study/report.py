"""One self-contained HTML page of a study: tables, figures, configuration, environment, deviations from the paper."""

import html
from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from hsl_study.collapsed import collapsed_table
from hsl_study.contrasts import bootstrap_table, contrast_table, pooled_table
from hsl_study.deviations import deviations
from hsl_study.feature_views import features_table, tsne_figure
from hsl_study.figures import SCENARIO_FIGURES, lines, png
from hsl_study.results import Results
from hsl_study.tables import (
    TextTable,
    auc_table,
    domain_table,
    environment_table,
    gradient_table,
    gradients,
    metrics_table,
    missing_table,
    node_table,
    scenario_names,
)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 2rem;display:block;overflow:auto}td,th{padding:.25rem .7rem;"
    "text-align:left;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}th{background:#f5f5f5}"
    "pre{background:#f5f5f5;padding:1rem;overflow:auto}img{max-width:100%}figure{margin:0 0 2rem}"
    "caption,figcaption{text-align:left;font-weight:600;white-space:nowrap}"
)
SCENARIO_TABLES: tuple[Callable[[Results, str], TextTable | None], ...] = (
    auc_table,
    metrics_table,
    domain_table,
    contrast_table,
    bootstrap_table,
    node_table,
    pooled_table,
)


def html_report(results: Results) -> str:
    """Raises nothing for missing cells: they stand in the tables with their reason."""
    title = html.escape(results.config.name)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return "\n".join([head, f"<h1>Study {title}</h1>", *_summary(results), *_body(results), *_end(results), "</html>"])


def _summary(results: Results) -> Iterator[str]:
    config, rows = results.config, results.rows.values()
    num_cells = len(config.scenarios) * len(config.arms) * len(config.seeds)
    hours = sum(row.seconds for row in rows) / 3600
    scale = "" if config.scale is None else f"Scale {config.scale}. "
    yield f"<p>{scale}{len(rows)} of {num_cells} cells, {hours:.2f} hours of training.</p>"
    yield from (_table(table) for table in (missing_table(results), collapsed_table(results)) if table.rows)
    if said := results.folder.scenarios():
        yield f"<h2>Images</h2><pre>{html.escape(said)}</pre>"


def _body(results: Results) -> Iterator[str]:
    for kind in gradients(results):
        yield f"<h2>{html.escape(kind)}, all ratios</h2>"
        yield from _figure(f"{kind}: AUC over the ratios; mean and middle 95 % of the seeds", lines(results, kind))
        yield _table(gradient_table(results, kind))
    for scenario in scenario_names(results):
        yield f"<h2>{html.escape(scenario)}</h2>"
        if not results.of(scenario):
            yield _table(auc_table(results, scenario))
            continue
        tables = [make(results, scenario) for make in SCENARIO_TABLES]
        yield from (_table(table) for table in tables if table is not None)
        for caption, draw in SCENARIO_FIGURES:
            yield from _figure(f"{scenario}: {caption}", draw(results, scenario))
        if (table := features_table(results, scenario)) is not None:
            yield _table(table)
            caption = "t-SNE of the features; its shapes prove nothing, the numbers of the table above do"
            yield from _figure(f"{scenario}: {caption}", tsne_figure(results, scenario))


def _end(results: Results) -> Iterator[str]:
    yield "<h2>Deviations from the paper</h2><ul>"
    yield from (f"<li>{html.escape(line)}</li>" for line in deviations(results.config))
    yield "</ul><h2>Environment</h2>"
    yield _table(environment_table(results))
    yield f"<h2>Configuration</h2><pre>{html.escape(results.config.model_dump_json(indent=2))}</pre>"


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption><tr>{head}</tr>{rows}</table>"


def _figure(caption: str, figure: Figure | None) -> Iterator[str]:
    if figure is not None:
        text = html.escape(caption)
        picture = f'<img alt="{text}" src="data:image/png;base64,{png(figure)}">'
        yield f"<figure><figcaption>{text}</figcaption>{picture}</figure>"
