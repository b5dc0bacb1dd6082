"""The demo from beginning to end.

claim the folder -> recall or choose -> images -> hub, coordinator -> enrol, bind, agents -> run -> follow
    -> stop everything -> tables, figure, result.json
"""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from hsl_cli.demo.figure import draw
from hsl_cli.demo.images import prepare_images
from hsl_cli.demo.options import DemoOptions
from hsl_cli.demo.ports import check_free
from hsl_cli.demo.processes import Supervisor, end_stale
from hsl_cli.demo.result import DemoResult, auc_table, cost_table, outcome
from hsl_cli.demo.settings import Choices, checked_choices
from hsl_cli.demo.setup import Alliance
from hsl_cli.demo.watchdog import Watchdog
from hsl_cli.demo.workdir import Layout, claimed, forget, recall, remember
from hsl_cli.errors import INTERRUPTED, OK, REFUSED, BadInputError
from hsl_cli.live import Reader, Screen, follow
from hsl_cli.output import seconds
from hsl_cli.paths import run_path
from hsl_model.durable import write_bytes
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.states import RunStatus
from hsl_model.protocol.views import RoundView

WIDTH = 160  # of a log; a terminal knows its own
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(options: DemoOptions) -> int:
    """The exit code: 0 if every round completed with equal digests, 1 if not, 130 if interrupted."""
    choices = checked_choices(options)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    clock = SystemClock()
    began = clock.monotonic()
    with claimed(options.workdir) as layout:
        try:
            with interruptible():
                end_stale(layout, clock, lambda line: console.print(line, markup=False))
                result = finished(layout, options, choices)
                if result is not None:
                    console.print("This demo is finished; --fresh begins anew.")
                else:
                    result = train(layout, options, choices, console)
        except KeyboardInterrupt:
            console.print("\nStopped; nothing is left running. The same command continues where it was:")
            console.print(f"  {shlex.join(['hsl', *sys.argv[1:]])}", markup=False, soft_wrap=True)
            return INTERRUPTED
        report(result, layout, options.json, console)
        console.print(f"{layout.result}, {layout.figure} (in {seconds(clock.monotonic() - began)})", markup=False)
    return OK if result.complete else REFUSED


@contextmanager
def interruptible() -> Iterator[None]:
    """A terminal that closes or a service manager that says SIGTERM ends the demo as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        for one in SIGNALS:  # stopping is bounded in time; a second Ctrl-C must not leave processes behind
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def finished(layout: Layout, options: DemoOptions, choices: Choices) -> DemoResult | None:
    """The result of a demo that was over before: shown again instead of run again."""
    if options.fresh:
        forget(layout)
    if not layout.result.exists():
        return None
    recall(layout, choices, options.port)
    result = DemoResult.model_validate_json(layout.result.read_bytes())
    return result if result.status is RunStatus.COMPLETED else None


def train(layout: Layout, options: DemoOptions, choices: Choices, console: Console) -> DemoResult:
    memory = recall(layout, choices, options.port)
    for port in memory.used_ports():
        check_free(port)
    clock = SystemClock()
    with Screen(console, transient=True) as shown:
        images = prepare_images(layout, choices, shown.note)
        remember(layout, memory)  # only now: a first start with wrong images leaves nothing to be continued
        processes = Supervisor(layout, clock, shown.note)
        try:
            alliance = Alliance(layout, memory, processes, shown.note)
            alliance.start_services()
            alliance.start_sites(images)
            run_id = alliance.ensure_run(images)
            with alliance.coordinator() as coordinator:
                follow(Reader(coordinator, run_id), Watchdog(clock, shown.show), clock=clock, each=processes.look_after)
                picture = Reader(coordinator, run_id).read()
                rounds = list(coordinator.all(f"{run_path(run_id)}/rounds", RoundView))
        finally:
            processes.stop_all()
    return outcome(picture.run, rounds, alliance.memory.choices)


def report(result: DemoResult, layout: Layout, also: Path | None, console: Console) -> None:
    raw = result.model_dump_json(indent=2).encode()
    write_bytes(layout.result, raw)
    draw(result, layout.figure)
    if also is not None:
        try:
            write_bytes(also, raw)
        except OSError as error:
            raise BadInputError(reason=f"--json {also}: cannot write there ({error.strerror}).") from error
    console.print(auc_table(result))
    console.print(cost_table(result))
    if result.complete:
        sentence = f"Every node reported the same digest in every round; the last is {result.final_digest}."
        console.print(sentence, soft_wrap=True)
        if result.best_mean_auc is not None:
            console.print(f"Best mean validation AUC {result.best_mean_auc:.3f}, after round {result.best_round}.")
    else:
        console.print(f"[red]Not complete:[/red] {result.problem} Begin anew with --fresh.", soft_wrap=True)
