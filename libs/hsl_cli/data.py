"""`hsl data …`: look at images before anything is trained on them, build a shared anchor task, make phantoms."""

from pathlib import Path
from typing import Annotated

import typer

from hsl_cli.options import JsonFlag, grouped
from hsl_cli.source import Source

app = typer.Typer(no_args_is_help=True, help="Truth report, shared anchor task (SAT), synthetic phantoms.")


@app.command()
@grouped
def report(
    source: Source,
    config: Annotated[Path, typer.Option(help="A run's configuration, or a file with its task alone.")],
    classes: Annotated[list[str], typer.Option("--class", help="SITE_CLASS=TASK_CLASS; repeatable.")],
    sat: Annotated[Path | None, typer.Option(help="The SAT bundle, to find images that also lie in it.")] = None,
    json: JsonFlag = False,
) -> None:
    """What a site's images really are: counts by split, class and domain, and what is not used and why."""
    import tempfile

    from hsl_cli.config_file import load_task
    from hsl_cli.output import print_json, say
    from hsl_cli.source import class_mapping
    from hsl_data.site import prepare_site

    task = load_task(config)
    binding = source.binding(task.task_id, class_mapping(classes))
    with tempfile.TemporaryDirectory(prefix="hsl-report-") as cache:
        prepared = prepare_site(binding, task, sat, _digest(sat) if sat else None, Path(cache))
    if json:
        return print_json(prepared.report)
    return say("\n".join(prepared.report.lines()))


def _digest(sat: Path) -> str:
    """The digest a run would declare for this bundle."""
    from hsl_cli.errors import BadInputError
    from hsl_model.checkpoint import read_tensors, tensors_digest

    try:
        return tensors_digest(read_tensors(sat).items())
    except OSError as error:
        raise BadInputError(reason=f"--sat {sat}: cannot read it ({error.strerror}).") from error


@app.command("sat")
@grouped
def build(
    source: Source,
    positive: Annotated[str, typer.Option(help="The class that counts as positive.", show_default=False)],
    negative: Annotated[str, typer.Option(help="The class that counts as negative.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The bundle to write.")] = Path("sat.safetensors"),
    per_class: Annotated[int, typer.Option(help="Images of each class.", min=1)] = 200,
    size: Annotated[int, typer.Option(help="Height and width, as the run's task has them.", min=16, max=1024)] = 224,
    channels: Annotated[int, typer.Option(help="1 (grey) or 3 (colour), as the run's task has them.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.", min=0)] = 0,
    json: JsonFlag = False,
) -> None:
    """Build the shared anchor task from public images; every node gets this same file, and the run names its digest."""
    from hsl_cli.errors import BadInputError
    from hsl_cli.output import print_json, say
    from hsl_data.sat import build_sat
    from hsl_model.protocol.config import TaskConfig

    if channels not in (1, 3):
        raise BadInputError(reason=f"--channels {channels}: choose 1 (grey) or 3 (colour).")
    if positive == negative:
        raise BadInputError(reason="--positive and --negative must be two different classes.")
    task = TaskConfig.model_validate(
        {
            "task_id": "sat",
            "positive_class": positive,
            "negative_class": negative,
            "modality": "any",
            "channels": channels,
            "height": size,
            "width": size,
        }
    )
    facts = build_sat(source.binding("sat", {positive: positive, negative: negative}), task, per_class, output, seed)
    if json:
        return print_json(facts)
    return say("\n".join(facts.lines()))


@app.command()
def phantoms(
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("phantoms"),
    sites: Annotated[int, typer.Option(help="How many sites; each has its own exposure and anatomy.", min=1)] = 3,
    cases: Annotated[int, typer.Option(help="Images a site.", min=2)] = 300,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=16, max=1024)] = 64,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.", min=0)] = 0,
    json: JsonFlag = False,
) -> None:
    """Synthetic radiographs of bones with and without a fracture line, one .npz a site."""
    from hsl_cli.output import print_json, say
    from hsl_data.phantoms import write_phantom_sites

    paths = write_phantom_sites(output, sites, cases, size, seed)
    if json:
        return print_json([str(path) for path in paths])
    return say("\n".join(map(str, paths)))
