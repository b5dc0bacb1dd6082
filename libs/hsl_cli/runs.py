"""`hsl run …`: what an alliance coordinator does with runs."""

from pathlib import Path
from typing import Annotated

import typer

from hsl_cli.errors import REFUSED, BadInputError
from hsl_cli.options import Connection, JsonFlag, grouped

app = typer.Typer(no_args_is_help=True, help="Create, start, pause, resume, stop and watch runs.")

RunId = Annotated[str, typer.Argument(help="The run's id, as `hsl run list` shows it.", show_default=False)]


@app.command()
@grouped
def create(
    connection: Connection,
    config: Annotated[
        Path, typer.Option(help="The run's configuration, .toml or .json; - reads TOML from stdin.", show_default=False)
    ],
    start: Annotated[bool, typer.Option("--start", help="Start it at once (members must have accepted).")] = False,
    json: JsonFlag = False,
) -> None:
    """Create a run from a configuration file; its nodes are invited."""
    from hsl_cli.config_file import load_config
    from hsl_cli.output import print_json, say
    from hsl_cli.paths import RUNS, run_path
    from hsl_model.protocol.views import RunView

    checked = load_config(config)
    with connection.open() as coordinator:
        run = coordinator.post(RUNS, RunView, checked)
        if start:
            run = coordinator.post(f"{run_path(run.run_id)}/start", RunView)
    if json:
        print_json(run)
    elif start:
        say(f"{run.run_id} is {run.status}. Follow it with `hsl run watch {run.run_id}`.")
    else:
        say(f"Created {run.run_id}; it invites {', '.join(run.config.nodes)}. When they have accepted, start it with")
        say(f"  hsl run start {run.run_id}")


def _move(connection: Connection, run_id: str, verb: str, json: bool) -> None:
    from hsl_cli.output import print_json, say
    from hsl_cli.paths import run_path
    from hsl_model.protocol.views import RunView

    with connection.open() as coordinator:
        run = coordinator.post(f"{run_path(run_id)}/{verb}", RunView)
    if json:
        print_json(run)
    else:
        say(f"{run.run_id} is {run.status}." + (f" {run.waiting}" if run.waiting else ""))


@app.command("start")
@grouped
def start_run(connection: Connection, run_id: RunId, json: JsonFlag = False) -> None:
    """Start a run; enough members must have accepted it."""
    _move(connection, run_id, "start", json)


@app.command()
@grouped
def pause(connection: Connection, run_id: RunId, json: JsonFlag = False) -> None:
    """Pause a run: training stops at the next step with a snapshot, and deadlines stand still."""
    _move(connection, run_id, "pause", json)


@app.command()
@grouped
def resume(connection: Connection, run_id: RunId, json: JsonFlag = False) -> None:
    """Let a paused run go on where it was."""
    _move(connection, run_id, "resume", json)


@app.command()
@grouped
def stop(
    connection: Connection,
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; a stopped run cannot be resumed.")] = False,
    json: JsonFlag = False,
) -> None:
    """End a run for good. Every site keeps its last fused model."""
    import sys

    if not yes:
        if not sys.stdin.isatty():
            raise BadInputError(reason="A stopped run cannot be resumed: say so with --yes, or use `hsl run pause`.")
        typer.confirm(f"Stop {run_id} for good? (`hsl run pause` can be undone)", abort=True)
    _move(connection, run_id, "stop", json)


@app.command("list")
@grouped
def list_runs(
    connection: Connection,
    status: Annotated[str | None, typer.Option(help="Only runs with this status, e.g. running.")] = None,
    json: JsonFlag = False,
) -> None:
    """List the alliance's runs."""
    from hsl_cli.output import print_json, show, table
    from hsl_cli.paths import RUNS
    from hsl_model.protocol.states import RunStatus
    from hsl_model.protocol.views import RunView

    if status is not None and status not in set(RunStatus):
        raise BadInputError(reason=f"{status!r} is not a status; choose one of {', '.join(RunStatus)}.")
    with connection.open() as coordinator:
        runs = list(coordinator.all(RUNS, RunView, status=status))
    if json:
        return print_json(runs)
    columns = ("run", "name", "status", "round", "method", "members", "best mean AUC", "waiting for")
    rows = [
        (
            run.run_id,
            run.name,
            run.status,
            f"{'-' if run.round_number is None else run.round_number} of {run.num_rounds}",
            run.config.method.name,
            len(run.members),
            run.best_mean_auc,
            run.waiting,
        )
        for run in runs
    ]
    return show(table(None, columns, rows))


@app.command("show")
@grouped
def show_run(connection: Connection, run_id: RunId, json: JsonFlag = False) -> None:
    """Show a run: its members, its rounds, and what it waits for."""
    from hsl_cli.output import plain, print_json, show
    from hsl_cli.paths import run_path
    from hsl_cli.run_tables import members_table, rounds_table, run_facts, work_table
    from hsl_model.protocol.states import RoundStatus
    from hsl_model.protocol.views import RoundView, RunView

    with connection.open() as coordinator:
        run = coordinator.get(run_path(run_id), RunView)
        rounds = list(coordinator.all(f"{run_path(run_id)}/rounds", RoundView))
    if json:
        return print_json({"run": plain(run), "rounds": plain(rounds)})
    show(run_facts(run))
    show(members_table(run))
    show(rounds_table(rounds))
    if rounds and rounds[-1].status in (RoundStatus.OPEN, RoundStatus.FUSING):
        show(work_table(rounds[-1]))
    return None


@app.command()
@grouped
def watch(connection: Connection, run_id: RunId, json: JsonFlag = False) -> None:
    """Follow a run live until it ends. Exit code 0 only if it completed.

    With --json: one line for every change.
    """
    from hsl_cli.live import watch_run
    from hsl_cli.output import warn
    from hsl_model.protocol.states import RunStatus

    with connection.open() as coordinator:
        run = watch_run(coordinator, run_id, as_json=json)
    if run.status is not RunStatus.COMPLETED:
        warn(f"{run.run_id} is {run.status}: {run.reason or 'no reason was given'}")
        raise typer.Exit(REFUSED)
