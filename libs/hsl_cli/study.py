"""`hsl study`: the paper's experiments on the engine that the hospitals run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from hsl_cli.errors import BadInputError

if TYPE_CHECKING:
    from hsl_study.config import DataConfig, StudyConfig

Section = TypeVar("Section", bound="DataConfig")
app = typer.Typer(no_args_is_help=True, help="Compare learning methods under controlled heterogeneity.")
Workdir = Annotated[Path, typer.Option(help="The study's folder; the same command continues in it.")]


@app.command("run")
def run(
    config: Annotated[str, typer.Argument(help="A .toml or .json file, or a name that `hsl study list` shows.")],
    workdir: Workdir = Path("study-run"),
    data: Annotated[Path | None, typer.Option(help="The images, where the file does not say.")] = None,
    sat: Annotated[
        list[str] | None, typer.Option(help="The images of the shared anchor task; NAME=PATH for one of [sats].")
    ] = None,
    override: Annotated[
        Path | None, typer.Option(help="A .toml file whose sections and keys take the place of the study's.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, one thread each.")] = 1,
    budget_hours: Annotated[float | None, typer.Option(help="Refuse to begin what would take longer.")] = None,
) -> None:
    """Run what is not yet finished, then write report.html."""
    from hsl_cli.output import say
    from hsl_model.protocol.clock import SystemClock
    from hsl_study.folder import StudyFolder
    from hsl_study.grid import Grid

    folder = StudyFolder.create(_with_paths(_load(config, override), data, sat or []), workdir)
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
    from hsl_study.folder import StudyFolder
    from hsl_study.report import html_report

    if not (workdir / "study.json").is_file():
        raise BadInputError(reason=f"{workdir} holds no study; `hsl study run` begins one.")
    folder = StudyFolder(workdir)
    for scenario in tables.scenario_names(folder):
        for make in (tables.auc_table, tables.contrast_table):
            made = make(folder, scenario)
            show(table(made.title, made.columns, made.rows))
    write_bytes(workdir / "report.html", html_report(folder).encode())
    say(f"{workdir / 'report.html'}")


def _load(config: str, override: Path | None) -> "StudyConfig":
    from pydantic import ValidationError

    from hsl_cli.config_file import parse_file, wrong_keys
    from hsl_study import configs
    from hsl_study.config import StudyConfig

    path = configs.path_of(config) or Path(config)
    parsed, own = parse_file(path), {} if override is None else parse_file(override)
    if isinstance(parsed, dict) and isinstance(own, dict):
        parsed |= own  # whole sections: classes of another source may not be mixed with the study's
    try:
        return StudyConfig.model_validate(parsed)
    except ValidationError as error:
        name = path if override is None else f"{path} with {override}"
        reason = f"{name} is not a study; correct these keys:\n{wrong_keys(error)}"
        raise BadInputError(reason=reason) from error


def _with_paths(config: "StudyConfig", data: Path | None, sats: list[str]) -> "StudyConfig":
    """Paths of the command line in place of the file's; all of them absolute, since cells run elsewhere."""
    from hsl_study.arm_sat import OWN

    given = dict(_named(sat, OWN) for sat in sats)
    sections = config.sat_configs()
    if data is not None and config.data is None:
        raise BadInputError(reason="--data: the study has no section [data] that says how to read it.")
    if unknown := sorted(set(given) - set(sections)):
        section = "[sat]" if unknown[0] == OWN else f"[sats.{unknown[0]}]"
        raise BadInputError(reason=f"--sat: the study has no section {section} that says how to read it.")
    found = {name: _at(section, given.get(name)) for name, section in sections.items()}
    changes: dict[str, object] = {"sat": found.pop(OWN, None), "sats": found}
    if config.data is not None:
        changes["data"] = _at(config.data, data)
    return config.model_copy(update=changes)


def _named(option: str, own: str) -> tuple[str, Path]:
    """`chest=films` is the source of [sats.chest], `films` of [sat]; a path that holds `=` is written `./a=b`."""
    name, equals, path = option.partition("=")
    return (name, Path(path)) if equals and "/" not in name else (own, Path(option))


def _at(section: Section, path: Path | None) -> Section:
    found = path or section.path
    return section.model_copy(update={"path": None if found is None else found.resolve()})
