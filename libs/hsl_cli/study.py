"""`hsl study`: the paper's experiments on the engine that the hospitals run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsl_cli.errors import STOPPED, BadInputError
from hsl_cli.options import grouped

if TYPE_CHECKING:
    from hsl_cli.study_file import StudyOptions
    from hsl_model.round_work import EngineOptions

app = typer.Typer(no_args_is_help=True, help="Compare learning methods under controlled heterogeneity.")
Workdir = Annotated[Path, typer.Option(help="The study's folder; the same command continues in it.")]
Words = list[str] | None


@dataclass(frozen=True)
class Changes:
    """What takes the place of what the study's file says."""

    scale: Annotated[str | None, typer.Option(help="smoke, small or paper. Default: as the file says.")] = None
    data: Annotated[Path | None, typer.Option(help="The images, where the file does not say.")] = None
    reader: Annotated[str | None, typer.Option(help="How to read them, if not as the file says.")] = None
    classes: Annotated[Words, typer.Option("--class", help="SOURCE_CLASS=TASK_CLASS; repeatable.")] = None
    ignored: Annotated[Words, typer.Option("--ignore-class", help="SOURCE_CLASS to leave out; repeatable.")] = None
    sat: Annotated[
        Words, typer.Option(help="The images of the shared anchor task; NAME=PATH for another one of the study.")
    ] = None
    sat_reader: Annotated[str | None, typer.Option(help="How to read those.")] = None
    sat_classes: Annotated[
        Words, typer.Option("--sat-class", help="SOURCE_CLASS=positive or =negative; repeatable.")
    ] = None
    sat_ignored: Annotated[Words, typer.Option("--sat-ignore-class", help="Likewise of the shared anchor task.")] = None
    sat_per_class: Annotated[int | None, typer.Option(min=1, help="Its images of each class.")] = None
    size: Annotated[int | None, typer.Option(help="Pixels of a side.")] = None
    seeds: Annotated[str | None, typer.Option(help="0-4 or 0,1,7. Default: as the file says.")] = None
    arm: Annotated[Words, typer.Option(help="Only this arm; repeatable.")] = None
    override: Annotated[
        Path | None, typer.Option(help="A .toml file whose sections and keys take the place of the study's.")
    ] = None

    def options(self) -> "StudyOptions":
        from hsl_cli.study_file import AnchorOptions, SourceOptions, StudyOptions

        images = SourceOptions(self.data, self.reader, self.classes or (), self.ignored or ())
        classes = (self.sat_classes or (), self.sat_ignored or ())
        anchors = AnchorOptions(self.sat or (), self.sat_reader, *classes, self.sat_per_class)
        return StudyOptions(self.scale, self.override, self.seeds, self.arm or (), self.size, images, anchors)


@dataclass(frozen=True)
class Machine:
    """What its cells run on. Rows are the same whatever is chosen here, but for `device` and what goes with it."""

    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, one thread each; on a GPU they share it.")] = 1
    engine: Annotated[str, typer.Option(help="local, or ray: cells as tasks of Ray on this machine.")] = "local"
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu"
    channels_last: Annotated[bool, typer.Option("--channels-last", help="The memory format of tensor cores.")] = False
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the training step; takes minutes once.")] = False
    cache_images: Annotated[
        bool, typer.Option("--cache-images", help="A site's images on the device while it trains, where they fit.")
    ] = False

    def options(self) -> "EngineOptions":
        from hsl_cli.device import check_device
        from hsl_model.round_work import EngineOptions

        check_device(self.device)
        return EngineOptions(
            device=self.device,
            channels_last=self.channels_last,
            compiled=self.compiled,
            cache_on_device=self.cache_images,
            snapshot_every_steps=None,
        )


@app.command("run")
@grouped
def run(
    config: Annotated[str, typer.Argument(help="A .toml or .json file, or a name that `hsl study list` shows.")],
    changes: Changes,
    machine: Machine,
    workdir: Workdir = Path("study-run"),
    budget_hours: Annotated[float | None, typer.Option(help="Refuse to begin what would take longer.")] = None,
    stop_after: Annotated[
        float | None, typer.Option(min=1, help="Minutes; cells under way write a snapshot, and the exit code is 4.")
    ] = None,
) -> None:
    """Run what is not yet finished, then write report.html. Exit code 4: stopped as asked, the same command goes on."""
    from hsl_cli.output import say
    from hsl_cli.study_file import load_study
    from hsl_model.locking import alone
    from hsl_model.protocol.clock import SystemClock
    from hsl_study.engines import engine_named
    from hsl_study.folder import StudyFolder
    from hsl_study.grid import Grid

    options, study, engine = machine.options(), load_study(config, changes.options()), engine_named(machine.engine)
    workdir.mkdir(parents=True, exist_ok=True)
    reason = f"Another study is running in {workdir}; wait for it, or take another --workdir."
    with alone(workdir / "lock", lambda: BadInputError(reason=reason)):
        grid = Grid(StudyFolder.create(study, workdir), SystemClock(), say, options, engine)
        num_left = grid.run(machine.jobs, budget_hours, None if stop_after is None else 60 * stop_after)
        report(workdir)
    if num_left:
        say(f"{num_left} cells are left; the same command goes on with them.")
        raise typer.Exit(STOPPED)


@app.command("list")
def list_studies() -> None:
    """The studies that come with HeteroSync, each at three scales: smoke, small, paper."""
    from hsl_cli.output import say
    from hsl_study import configs

    for name, first_line in configs.described():
        say(f"{name:22} {first_line}")


@app.command("report")
def report(workdir: Workdir = Path("study-run")) -> None:
    """Tables on the screen and report.html in the folder, from what is finished so far."""
    from hsl_cli.output import say, show, table
    from hsl_model.durable import write_bytes
    from hsl_study.collapsed import collapsed_table
    from hsl_study.contrasts import contrast_table
    from hsl_study.folder import StudyFolder
    from hsl_study.report import html_report
    from hsl_study.results import Results
    from hsl_study.tables import auc_table, scenario_names

    if not (workdir / "study.json").is_file():
        raise BadInputError(reason=f"{workdir} holds no study; `hsl study run` begins one.")
    results = Results(StudyFolder(workdir))
    for made in (
        collapsed_table(results),
        *(make(results, name) for name in scenario_names(results) for make in (auc_table, contrast_table)),
    ):
        if made.rows:
            show(table(made.title, made.columns, made.rows))
    write_bytes(workdir / "report.html", html_report(results).encode())
    say(f"{workdir / 'report.html'}")


@app.command("aa")
def aa(workdir: Workdir = Path("study-run")) -> None:
    """How often the statistics see a difference between trainings of one method: of a finished `hsl study run aa`."""
    from hsl_cli.output import show, table
    from hsl_study.aa import HIGHEST, LOWEST, rates
    from hsl_study.folder import StudyFolder

    if not (workdir / "study.json").is_file():
        raise BadInputError(reason=f"{workdir} holds no study; `hsl study run aa` begins one.")
    columns = ("analysis", "cases", "rejected at 0.05", f"{LOWEST:.0%} to {HIGHEST:.0%}")
    found = rates(StudyFolder(workdir))
    rows = [(rate.analysis, str(rate.num_cases), rate.said, "yes" if rate.passes else "no") for rate in found]
    show(table("One method against itself", columns, rows))
