"""`hsl coordinator backup` and `recover`: a copy of the ledger, and going on from one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsl_cli.options import Connection, JsonFlag, grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hsl_cli.service import Service
    from hsl_model.protocol.views import LedgerView, RecoveredView


def backup(
    target: Annotated[Path, typer.Argument(help="The file to write; it must not exist.", show_default=False)],
    workdir: Annotated[
        Path, typer.Option(envvar="HSL_COORDINATOR_WORKDIR", help="Where the coordinator keeps its database.")
    ] = Path(),
    database_url: Annotated[
        str | None, typer.Option(envvar="HSL_COORDINATOR_DATABASE_URL", help="As the coordinator's.")
    ] = None,
) -> None:
    """Copy the ledger (SQLite) while the coordinator runs. PostgreSQL: use pg_dump, as docs/operations.md shows."""
    from coordinator.ledger.backup import write_backup
    from coordinator.settings import DEFAULT_DATABASE_URL, resolved_url
    from hsl_cli.output import num_bytes, say
    from hsl_model.protocol.clock import SystemClock

    written = write_backup(resolved_url(database_url or DEFAULT_DATABASE_URL, workdir), target, SystemClock())
    say(f"Wrote {target} ({num_bytes(written)}). A coordinator that starts on it waits for `hsl coordinator recover`.")


@grouped
def recover(
    connection: Connection,
    not_revoked: Annotated[
        list[str] | None, typer.Option(help="A node that others call revoked and that is to stay; repeatable.")
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for sites that have not spoken yet.")] = 60.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; what is missing has been read.")] = False,
    json: JsonFlag = False,
) -> None:
    """After a restore: show what the sites know and the ledger does not, complete it, and let runs be resumed."""
    import sys

    from hsl_cli.errors import BadInputError
    from hsl_cli.output import plain, print_json, say, show
    from hsl_cli.paths import LEDGER
    from hsl_model.protocol.views import RecoveredView

    with connection.open() as coordinator:
        ledger = _when_all_have_spoken(coordinator, wait_s)
        if not json:
            for part in _gap(ledger):
                show(part)
        if not ledger.is_held:
            return print_json({"ledger": plain(ledger), "recovered": None}) if json else say(_whole(ledger))
        if not yes:
            if not sys.stdin.isatty():
                raise BadInputError(reason="Recovering needs a person who has read what is missing: say so with --yes.")
            typer.confirm("Complete the ledger from this, and let runs be resumed?", abort=True)
        request = {"generation": ledger.generation, "not_revoked": not_revoked or []}
        done = coordinator.post(f"{LEDGER}/recover", RecoveredView, request)
    if json:
        return print_json({"ledger": plain(ledger), "recovered": plain(done)})
    for line in _done(done):
        say(line)
    return None


def _when_all_have_spoken(coordinator: "Service", wait_s: float) -> "LedgerView":
    """The ledger, once every enrolled site has said what it has seen and sent its records, or the time is over."""
    from hsl_cli.live import wait
    from hsl_cli.output import warn
    from hsl_cli.paths import LEDGER
    from hsl_model.protocol.clock import SystemClock
    from hsl_model.protocol.views import LedgerView

    clock = SystemClock()
    deadline_s = clock.monotonic() + wait_s
    ledger = coordinator.get(LEDGER, LedgerView)
    if ledger.is_held and _silent(ledger):
        warn(f"Waiting up to {wait_s:.0f} s for {', '.join(_silent(ledger))}.")
    while ledger.is_held and _silent(ledger) and clock.monotonic() < deadline_s:
        wait(clock, 1.0)
        ledger = coordinator.get(LEDGER, LedgerView)
    return ledger


def _silent(ledger: "LedgerView") -> list[str]:
    gone = {one.node_id for one in ledger.revoked}
    return sorted({*ledger.unheard, *(one.node_id for one in ledger.nodes if not one.has_answered)} - gone)


def _whole(ledger: "LedgerView") -> str:
    return (
        f"Ledger {ledger.ledger_id[:8]} (generation {ledger.generation}, event {ledger.event_id}) is not behind what "
        "its sites have seen, as far as they have said. Nothing is to be recovered."
    )


def _gap(ledger: "LedgerView") -> "Sequence[Table]":
    from hsl_cli.output import facts, table

    if not ledger.is_held:
        return ()
    parts = [
        facts(
            (
                ("ledger", f"{ledger.ledger_id[:8]}, generation {ledger.generation}, event {ledger.event_id}"),
                ("restored", ledger.reason),
                ("not heard from", ", ".join(_silent(ledger)) or None),
            )
        ),
        table(
            "What the sites have seen beyond it",
            ("site", "events more", "newest round of each run"),
            [
                (one.node_id, one.events_ahead, ", ".join(f"{run} {n}" for run, n in sorted(one.rounds.items())))
                for one in ledger.nodes
            ],
        ),
    ]
    if ledger.runs:
        rows = [
            (one.run_id, one.newest_round, one.newest_seen, _numbers(one.replayable), one.obstacle or _advice(one.name))
            for one in ledger.runs
        ]
        parts.append(table("Runs", ("run", "newest here", "newest seen", "can be completed", "note"), rows))
    if ledger.revoked:
        rows_revoked = [(one.node_id, ", ".join(one.seen_by)) for one in ledger.revoked]
        parts.append(table("Revoked after the backup; will be revoked again", ("node", "seen by"), rows_revoked))
    return parts


def _numbers(rounds: "Sequence[int]") -> str:
    return ", ".join(map(str, rounds)) or "none"


def _advice(name: str | None) -> str:
    if name is not None:
        return ""
    return "created after the backup: its sites keep its models; create a run again that starts from one of them"


def _done(done: "RecoveredView") -> "list[str]":
    lines = [f"The ledger is generation {done.generation} now."]
    lines += [f"{node_id} is revoked, and cut from the hub." for node_id in done.revoked]
    lines += [f"{run_id}: completed round {_numbers(rounds)} again." for run_id, rounds in sorted(done.rounds.items())]
    lines += [f"{run_id} stays unknown; its sites leave it and keep its models." for run_id in done.unknown_runs]
    lines += [f"  hsl run resume {run_id}" for run_id in done.to_resume]
    return lines
