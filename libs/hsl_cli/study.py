"""`hsl study`: the paper's experiments on the engine that the hospitals run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsl_cli.errors import BadInputError

if TYPE_CHECKING:
    from hsl_study.config import StudyConfig
    from hsl_study.folder import StudyFolder

app = typer.Typer(no_args_is_help=True, help="Compare learning methods under controlled heterogeneity.")
Workdir = Annotated[Path, typer.Option(help="The study's folder; the same command continues in it.")]


@app.command("run")
def run(
    config: Annotated[str, typer.Argument(help="A .toml or .json file, or a name that `hsl study list` shows.")],
    workdir: Workdir = Path("study-run"),
    data: Annotated[Path | None, typer.Option(help="The images, where the file does not say.")] = None,
    sat: Annotated[Path | None, typer.Option(help="The images of the shared anchor task.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, one thread each.")] = 1,
    budget_hours: Annotated[float | None, typer.Option(help="Refuse to begin what would take longer.")] = None,
) -> None:
    """Run what is not yet finished, then write report.html."""
    from hsl_cli.output import say
    from hsl_model.protocol.clock import SystemClock
    from hsl_study.folder import StudyFolder
    from hsl_study.grid import Grid

    folder = StudyFolder.create(_with_paths(_load(config), data, sat), workdir)
    Grid(folder, SystemClock(), say).run(jobs, budget_hours)
    report(workdir)


@app.command("list")
def list_studies() -> None:
    """The configurations that come with HeteroSync."""
    from hsl_cli.output import say
    from hsl_study import configs

    for name, first_line in configs.described():
        say(f"{name:28} {first_line}")


@app.command("report")
def report(workdir: Workdir = Path("study-run")) -> None:
    """Tables on the screen and report.html in the folder, from what is finished so far."""
    from hsl_cli.output import say, show, table
    from hsl_model.durable import write_bytes
    from hsl_study import tables
    from hsl_study.report import html_report

    folder = _folder(workdir)
    for scenario in tables.scenario_names(folder):
        for make in (tables.auc_table, tables.contrast_table):
            made = make(folder, scenario)
            show(table(made.title, made.columns, made.rows))
    write_bytes(workdir / "report.html", html_report(folder).encode())
    say(f"{workdir / 'report.html'}")


@app.command("aa")
def aa(workdir: Workdir = Path("study-run")) -> None:
    """How often the statistics see a difference between trainings of one method: of a finished `hsl study run aa`."""
    from hsl_cli.output import show, table
    from hsl_study.aa import HIGHEST, LOWEST, rates

    columns = ("analysis", "cases", "rejected at 0.05", f"{LOWEST:.0%} to {HIGHEST:.0%}")
    rows = [
        (found.analysis, str(found.num_cases), found.said, "yes" if found.passes else "no")
        for found in rates(_folder(workdir))
    ]
    show(table("One method against itself", columns, rows))


def _folder(workdir: Path) -> "StudyFolder":
    from hsl_study.folder import StudyFolder

    if not (workdir / "study.json").is_file():
        raise BadInputError(reason=f"{workdir} holds no study; `hsl study run` begins one.")
    return StudyFolder(workdir)


def _load(config: str) -> "StudyConfig":
    from pydantic import ValidationError

    from hsl_cli.config_file import parse_file, wrong_keys
    from hsl_study import configs
    from hsl_study.config import StudyConfig

    path = configs.path_of(config) or Path(config)
    try:
        return StudyConfig.model_validate(parse_file(path))
    except ValidationError as error:
        reason = f"{path} is not a study; correct these keys:\n{wrong_keys(error)}"
        raise BadInputError(reason=reason) from error


def _with_paths(config: "StudyConfig", data: Path | None, sat: Path | None) -> "StudyConfig":
    """Paths of the command line in place of the file's; all of them absolute, since cells run elsewhere."""
    changes = {}
    for name, path in (("data", data), ("sat", sat)):
        section = getattr(config, name)
        if section is None:
            if path is not None:
                raise BadInputError(reason=f"--{name}: the study has no section [{name}] that says how to read it.")
            continue
        found = path or section.path
        changes[name] = section.model_copy(update={"path": None if found is None else found.resolve()})
    return config.model_copy(update=changes)
