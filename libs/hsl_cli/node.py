"""`hsl node …`: what a hospital's administrator does on site."""

from pathlib import Path
from typing import Annotated

import typer

from hsl_cli import node_keys
from hsl_cli.options import JsonFlag, Site, grouped
from hsl_cli.source import Source

app = typer.Typer(no_args_is_help=True, help="Join an alliance, bind data, answer invitations, see what leaves.")

RunId = Annotated[str, typer.Argument(help="The run's id, as `hsl node status` shows it.", show_default=False)]


@app.command()
@grouped
def enrol(
    site: Site,
    coordinator: Annotated[str, typer.Option(help="Address of the alliance's coordinator.", show_default=False)],
    code: Annotated[str, typer.Option(help="The one-time code the alliance gave you.", show_default=False)],
    again: Annotated[
        bool,
        typer.Option("--again", help="This folder is enrolled, and its token is not valid any more."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Join an alliance: keys are made here, their public halves and the code are sent, a token comes back.

    With --again: with a new code and the same keys, so that this site keeps its models and its folder on the hub.
    """
    from pydantic import ValidationError

    from hsl_cli.errors import BadInputError, RefusedError, UnreachableError
    from hsl_cli.output import print_json, say
    from hsl_cli.service import checked_address
    from hsl_model.protocol.retry import FailureKind
    from node_agent.coordinator_client import CoordinatorError
    from node_agent.enrol import enrol as join

    checked_address(coordinator)
    if (site.workdir / "node.json").exists() and not again:
        raise RefusedError(
            reason=f"{site.workdir} is enrolled already; one folder is one node, so choose another, or say --again if "
            "this node's token is not valid any more."
        )
    try:
        joined = join(site.settings(), coordinator, code)
    except ValidationError as error:
        raise BadInputError(reason="--code: this is not a code of `hsl nodes add`; was it copied whole?") from error
    except CoordinatorError as error:
        if error.kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT):
            raise UnreachableError(reason=f"{error.sentence()} ({coordinator})") from error
        raise
    if json:
        return print_json(joined)
    say(f"This site is now {joined.node_id} of {joined.alliance}. {'Restart' if again else 'Start'} its agent with")
    return say(f"  hsl node serve --workdir {site.workdir}")


@app.command()
@grouped
def serve(
    site: Site,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    num_threads: Annotated[int | None, typer.Option(help="Threads of the training child.")] = None,
    site_port: Annotated[int | None, typer.Option(help="Port of the site API, on loopback. Default: any.")] = None,
) -> None:
    """Run the agent until it is told to end. Every setting can also be an environment variable, HSL_NODE_…."""
    from hsl_cli.serve import run_service

    given = {"WORKDIR": site.workdir, "DEVICE": device, "NUM_THREADS": num_threads, "SITE_PORT": site_port}
    run_service("node_agent", "HSL_NODE_", given)


@app.command()
@grouped
def bind(
    site: Site,
    source: Source,
    task: Annotated[str, typer.Option(help="The task's id, as the run's summary shows it.", show_default=False)],
    classes: Annotated[
        list[str], typer.Option("--class", help="SITE_CLASS=TASK_CLASS; repeatable.", show_default=False)
    ],
    sat: Annotated[Path | None, typer.Option(help="The alliance's SAT bundle.")] = None,
    json: JsonFlag = False,
) -> None:
    """Say which images of this site belong to a task, and which of its classes mean what. By name, never by index."""
    from hsl_cli.errors import BadInputError, UnreachableError
    from hsl_cli.output import print_json, say
    from hsl_cli.source import class_mapping
    from node_agent.bindings import BindingFile, write_binding

    if sat is not None and not sat.is_file():
        raise BadInputError(reason=f"--sat {sat}: there is no such file.")
    binding = source.binding(task, class_mapping(classes))
    file = BindingFile(binding=binding, sat_path=None if sat is None else sat.resolve())
    try:
        with site.open() as agent:
            agent.post("/bindings", BindingFile, file)  # a running agent looks at the new data at once
    except UnreachableError:
        write_binding(site.settings(), file)
    if json:
        return print_json(file)
    say(f"Bound {binding.path} to task {task}.")
    return say("See what the images really are with `hsl data report`, then `hsl node accept RUN`.")


@app.command()
@grouped
def status(site: Site, json: JsonFlag = False) -> None:
    """What this site's agent is doing, what it waits for, and which runs have been offered to it."""
    from hsl_cli.node_views import runs_table, status_facts
    from hsl_cli.output import plain, print_json, show
    from node_agent.status import RunSummary, SiteStatus

    with site.open() as agent:
        now = agent.get("/status", SiteStatus)
        runs = [RunSummary.model_validate(one) for one in agent.call("GET", "/runs").json()]
    if json:
        return print_json({"status": plain(now), "runs": plain(runs)})
    show(status_facts(now))
    return show(runs_table(runs))


@app.command()
@grouped
def accept(
    site: Site,
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; the summary has been read.")] = False,
    json: JsonFlag = False,
) -> None:
    """Accept a run after its summary: what is learned, from what, and what leaves the house."""
    import sys

    from hsl_cli.consent import answer, prepared
    from hsl_cli.errors import BadInputError
    from hsl_cli.node_views import summary_facts
    from hsl_cli.output import print_json, say, show

    if not yes and not sys.stdin.isatty():
        raise BadInputError(reason="Accepting needs a person who has read the summary: say so with --yes.")
    with site.open() as agent:
        if not yes:
            show(summary_facts(prepared(agent, run_id)))
            typer.confirm("Accept this run for your site?", abort=True)
        summary = answer(agent, run_id, "accept")
    return print_json(summary) if json else say(summary.explanation)


@app.command()
@grouped
def withdraw(site: Site, run_id: RunId, json: JsonFlag = False) -> None:
    """Leave a run, or decline it. Possible at any time; this site's last fused model stays here."""
    from hsl_cli.consent import answer
    from hsl_cli.output import print_json, say

    with site.open() as agent:
        summary = answer(agent, run_id, "withdraw")
    return print_json(summary) if json else say(summary.explanation)


def _move(site: Site, verb: str, json: bool) -> None:
    from hsl_cli.output import print_json, say
    from node_agent.status import SiteStatus

    with site.open() as agent:
        now = agent.post(f"/{verb}", SiteStatus)
    if json:
        print_json(now)
    else:
        say(f"{now.node_id} is {'paused' if now.paused_by_site else now.phase}. {now.explanation}")


@app.command()
@grouped
def retry(site: Site, json: JsonFlag = False) -> None:
    """Try a failed phase again, or a waiting retry at once."""
    _move(site, "retry", json)


@app.command()
@grouped
def pause(site: Site, json: JsonFlag = False) -> None:
    """Stop training at its next step, with a snapshot; transfers and fusions finish."""
    _move(site, "pause", json)


@app.command()
@grouped
def resume(site: Site, json: JsonFlag = False) -> None:
    """Let training go on where it was paused."""
    _move(site, "resume", json)


app.command()(node_keys.rotate)
app.command()(node_keys.trust)


@app.command("verify-egress")
@grouped
def verify_egress(site: Site, json: JsonFlag = False) -> None:
    """Check, without a network, that the record of everything that left this site is whole and unchanged."""
    import dataclasses

    from hsl_cli.output import num_bytes, print_json, say
    from hsl_model.protocol.clock import SystemClock
    from node_agent.egress import verify
    from node_agent.enrol import load_identity
    from node_agent.journal import Journal

    settings = site.settings()
    load_identity(settings)  # refuses a folder that is not an agent's, instead of making a journal there
    journal = Journal(settings.journal_path, SystemClock())
    try:
        found = verify(journal)
    finally:
        journal.close()
    if json:
        return print_json(dataclasses.asdict(found))
    say(f"The egress ledger is whole: {found.num_entries} entries, {num_bytes(found.num_bytes)} left this site.")
    return say(f"Its head is {found.head}; every manifest of this site carries the head of its time.")


@app.command()
@grouped
def export(
    site: Site,
    run: Annotated[str, typer.Option(help="The run's id.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    round_number: Annotated[
        int | None, typer.Option("--round", help="Default: the newest this site holds. `hsl run show` names the best.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write a fused model as a folder for `hsl predict`: weights, configuration, anchors. Needs no running agent."""
    from hsl_cli.export import export_model
    from hsl_cli.output import print_json, say

    card = export_model(site, run, round_number, to)
    if json:
        return print_json(card)
    return say(f"Wrote the model of {card.run_id} after round {card.round_number} to {to}: hsl predict --model {to} …")


@app.command(epilog="Exit codes: 0 nothing failed; 1 something failed; 2 wrong usage; 3 not reached: ask the network.")
@grouped
def check(
    site: Site,
    coordinator: Annotated[str | None, typer.Option(help="Its address, before this site is enrolled.")] = None,
    hub: Annotated[str | None, typer.Option(help="HOST:PORT, before enrolment. Default: the coordinator says.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's file; default: this site's run, or as published.")
    ] = None,
    members: Annotated[int | None, typer.Option(min=1, help="How many sites a round has.")] = None,
    cases: Annotated[int | None, typer.Option(min=1, help="How many training cases this site has.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="For how many rounds the disk must do.")] = 3,
    training: Annotated[bool, typer.Option(help="Train one real batch; on a CPU that takes a minute.")] = True,
    json: JsonFlag = False,
) -> None:
    """Will it do here, before joining or after? Ways, certificate, host key, speed, clock, training, disk."""
    from hsl_cli.config_file import load_config
    from hsl_cli.errors import BadInputError
    from hsl_cli.output import print_json
    from hsl_cli.service import checked_address
    from hsl_cli.site_check import exit_code, hub_place, show_end, show_finding
    from hsl_model.protocol.clock import SystemClock
    from node_agent.check.run import Wanted, run_checks
    from node_agent.errors import NotEnrolledError
    from node_agent.main import configure_logging

    configure_logging("error")  # what happens on the way is said by the findings
    wanted = Wanted(
        settings=site.settings(),
        coordinator_url=coordinator and str(checked_address(coordinator)),
        hub=hub_place(hub) if hub else None,
        config=load_config(config) if config else None,
        num_rounds=rounds,
        num_members=members,
        num_cases=cases,
        with_training=training,
    )
    try:
        report = run_checks(wanted, SystemClock(), (lambda _: None) if json else show_finding)
    except NotEnrolledError as error:
        raise BadInputError(
            reason=f"{site.workdir} is not enrolled; say which coordinator: --coordinator URL."
        ) from error
    if json:
        print_json(report)
    else:
        show_end(report)
    raise typer.Exit(exit_code(report))


@app.command("support-bundle")
@grouped
def support_bundle(
    site: Site,
    output: Annotated[Path, typer.Option(help="The archive to write.")] = Path("hsl-support.tar.gz"),
    log: Annotated[list[Path] | None, typer.Option(help="A file with the agent's log; repeatable.")] = None,
    json: JsonFlag = False,
) -> None:
    """Collect what helps somebody to help: state, versions, log, last check. No patient data, no secrets."""
    from hsl_cli.output import print_json, say
    from hsl_model.protocol.clock import SystemClock
    from node_agent.support.bundle import write_bundle

    items = write_bundle(site.settings(), output, log or (), SystemClock())
    if json:
        return print_json([{"name": one.name, "why": one.why, "is_in": one.data is not None} for one in items])
    for one in items:
        say(f"{'+' if one.data is not None else '-'} {one.name:<14} {one.why}")
    return say(f"Wrote {output}, readable by you alone. Look into it before you send it: it is text.")
