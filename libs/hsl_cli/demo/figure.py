"""The demo's figure: validation AUC of every site, before and after each fusion."""

from pathlib import Path

from hsl_cli.demo.result import DemoResult
from hsl_model.durable import publish


def draw(result: DemoResult, path: Path) -> None:
    """Write a PNG. Rounds from left to right; open marks are a site's own update, filled ones the fused model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    numbers = [found.round_number for found in result.rounds]
    for index, node_id in enumerate(result.sites):
        colour = f"C{index % 10}"
        sites = [found.sites.get(node_id) for found in result.rounds]
        after = _curve([one.auc_after if one else None for one in sites])
        before = _curve([one.auc_before if one else None for one in sites])
        axes.plot(numbers, after, color=colour, marker="o", label=node_id)
        axes.plot(numbers, before, color=colour, marker="o", markerfacecolor="none", linestyle="none", alpha=0.7)
    mean = _curve([found.mean_auc for found in result.rounds])
    axes.plot(numbers, mean, color="black", linestyle="--", linewidth=1, label="mean")
    axes.set_xlabel("round (0: initial weights)")
    axes.set_ylabel("validation AUC")
    axes.set_ylim(0.0, 1.02)
    axes.axhline(0.5, color="grey", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{result.choices.method}: own update (open) and fused model (filled)", fontsize=10)
    axes.legend(fontsize=8, ncols=2)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        canvas.print_png(file)  # type: ignore[no-untyped-call]
    publish(part, path)


def _curve(values: list[float | None]) -> list[float]:
    """What is undefined leaves a gap."""
    return [float("nan") if value is None else value for value in values]
