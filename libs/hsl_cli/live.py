"""Following a run: one picture of it a second, shown live on a terminal, as lines in a log, or as JSON lines."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from hsl_cli.errors import UnreachableError
from hsl_cli.output import text
from hsl_cli.paths import NODES, run_path
from hsl_cli.run_tables import health, one_answer, phase, progress, short
from hsl_cli.service import Service
from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.states import MembershipStatus, NodeHealth, RoundStatus, RunStatus
from hsl_model.protocol.views import NodeView, ParticipationView, RoundView, RunView

POLL_S = 1.0
MAX_SILENCE_S = 120.0  # a coordinator being restarted must not end a watch; one that is gone must
ENDED = (RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED)
FINAL = (RoundStatus.COMPLETED, RoundStatus.FAILED, RoundStatus.CANCELLED)


@dataclass(frozen=True)
class Picture:
    """A run as it was at one moment."""

    run: RunView
    rounds: tuple[RoundView, ...]
    nodes: dict[str, NodeView]

    @property
    def newest(self) -> RoundView | None:
        return self.rounds[-1] if self.rounds else None


@dataclass
class Reader:
    """Takes pictures; a round that is over is read once."""

    coordinator: Service
    run_id: str
    _over: list[RoundView] = field(default_factory=list)

    def read(self) -> Picture:
        run = self.coordinator.get(run_path(self.run_id), RunView)
        rounds = list(self._over)
        if run.round_number is not None:
            for number in range(len(rounds), run.round_number + 1):
                found = self.coordinator.get(f"{run_path(self.run_id)}/rounds/{number}", RoundView)
                rounds.append(found)
                if found.status in FINAL and len(self._over) == number:
                    self._over.append(found)
        members = {member.node_id for member in run.members}
        nodes = {node.node_id: node for node in self.coordinator.all(NODES, NodeView) if node.node_id in members}
        return Picture(run, tuple(rounds), nodes)


def screen(picture: Picture) -> RenderableType:
    """What the terminal shows: the run, a line a site, the rounds so far."""
    run = picture.run
    head = Table(show_header=False, box=None, pad_edge=False)
    newest = "no round yet" if picture.newest is None else f"round {picture.newest.round_number} of {run.num_rounds}"
    head.add_row(f"[bold]{text(run.name)}[/bold]  {run.run_id}  [cyan]{run.status.value}[/cyan]  {newest}")
    if waiting := (picture.newest and picture.newest.waiting) or run.waiting:
        head.add_row(f"[yellow]{text(waiting)}[/yellow]")
    return Group(head, _sites(picture), _scores(picture))


def _sites(picture: Picture) -> Table:
    made = Table(header_style="bold", expand=False)
    for column in ("site", "phase", "progress", "", "health"):
        made.add_column(column)
    for member in picture.run.members:
        node = picture.nodes.get(member.node_id)
        if node is None or member.status is not MembershipStatus.ACCEPTED:
            made.add_row(member.node_id, member.status.value, "", "", "")
            continue
        done = node.progress
        bar = ProgressBar(done.total or 1, done.done, width=24) if done and done.total else ""
        colour = "green" if node.health is NodeHealth.ONLINE else "red"
        note = f"[red]{text(node.failure)}[/red]" if node.failure else text(progress(done) or "")
        made.add_row(member.node_id, phase(node) or "", bar, note, f"[{colour}]{health(node)}[/{colour}]")
    return made


def _scores(picture: Picture) -> Table:
    made = Table(header_style="bold", title="validation AUC, before → after fusion", title_justify="left")
    members = [member.node_id for member in picture.run.members]
    for column in ("round", *members, "mean", "fused digest"):
        made.add_column(column)
    for found in picture.rounds[-12:]:
        by_node = {one.node_id: one for one in found.participations}
        cells = [before_after(by_node.get(member)) for member in members]
        made.add_row(str(found.round_number), *cells, text(found.mean_auc), text(short(found.fused_digest)))
    return made


def before_after(one: ParticipationView | None) -> str:
    """ "0.712 → 0.745": validation AUC of the site's own update, and of the fused model; marked where that gives all
    images one answer."""
    if one is None:
        return ""
    before = one.metrics.validation_auc if one.metrics else None
    after = one.validation.auc if one.validation else None
    mark = " (one answer)" if one.validation and one.validation.one_answer else ""
    return f"{text(before)} → {text(after)}{mark}" if before is not None or after is not None else ""


@dataclass
class Lines:
    """The same for a log: what changed since the picture before, a sentence each."""

    _seen: set[str] = field(default_factory=set)
    _phases: str = ""

    def changes(self, picture: Picture) -> list[str]:
        found = [self._once(line) for one in picture.rounds for line in _round_lines(one)]
        found += [self._once(f"run {picture.run.run_id} is {picture.run.status.value}")]
        found += [
            self._once(f"{node.node_id}, round {node.round_number}: {node.failure}")
            for node in picture.nodes.values()
            if node.failure
        ]
        lines = [line for line in found if line]
        phases = ", ".join(f"{name} {node.phase.value}" for name, node in sorted(picture.nodes.items()) if node.phase)
        if phases and phases != self._phases and picture.run.status not in ENDED:
            self._phases = phases
            lines.append(phases)
        return lines

    def _once(self, line: str) -> str:
        if line in self._seen:
            return ""
        self._seen.add(line)
        return line


def _round_lines(found: RoundView) -> list[str]:
    name = f"round {found.round_number}"
    lines = [f"{name} opened"]
    if found.status is not RoundStatus.OPEN and found.plan is not None:
        lines.append(f"{name}: plan version {found.plan.version} frozen with {len(found.plan.entries)} updates")
    if found.status in FINAL:
        collapsed = f"; {told}" if (told := one_answer(found)) else ""
        result = f"mean AUC {text(found.mean_auc)}, fused digest {short(found.fused_digest)}{collapsed}"
        lines.append(f"{name} {found.status.value}: {found.reason or result}")
    return lines


def wait(clock: Clock, seconds: float) -> None:
    wake = threading.Condition()
    with wake:
        clock.wait(wake, seconds)


@dataclass
class Screen:
    """Shows pictures where the output goes: live on a terminal, else lines."""

    console: Console
    transient: bool = False  # whether the live picture goes when it ends, because something better follows
    lines: Lines = field(default_factory=Lines)
    live: Live | None = None

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self.live = Live(
                console=self.console, auto_refresh=False, vertical_overflow="visible", transient=self.transient
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def note(self, sentence: str) -> None:
        """Something beside the run itself, e.g. a process that was restarted. It stays above the live picture."""
        self._line(sentence)

    def show(self, picture: Picture) -> None:
        if self.live is not None:
            self.live.update(screen(picture), refresh=True)
            return
        for line in self.lines.changes(picture):
            self._line(line)

    def _line(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def follow(
    reader: Reader, show: Callable[[Picture], None], *, clock: Clock, each: Callable[[], None] = lambda: None
) -> Picture:
    """Show pictures until the run has ended. `each` is called once a turn (the demo looks after its processes there).

    Raises `UnreachableError` when the coordinator has been silent for `MAX_SILENCE_S`.
    """
    silent_since: float | None = None
    while True:
        each()
        try:
            picture = reader.read()
        except UnreachableError:
            silent_since = clock.monotonic() if silent_since is None else silent_since
            if clock.monotonic() - silent_since > MAX_SILENCE_S:
                raise
        else:
            silent_since = None
            show(picture)
            if picture.run.status in ENDED:
                return picture
        wait(clock, POLL_S)


def watch_run(coordinator: Service, run_id: str, *, as_json: bool) -> RunView:
    reader, clock = Reader(coordinator, run_id), SystemClock()
    if as_json:
        return follow(reader, _JsonLines().show, clock=clock).run
    with Screen(Console()) as shown:
        return follow(reader, shown.show, clock=clock).run


@dataclass
class _JsonLines:
    _last: str = ""

    def show(self, picture: Picture) -> None:
        newest = picture.newest
        line = json.dumps(
            {
                "run_id": picture.run.run_id,
                "status": picture.run.status.value,
                "reason": picture.run.reason,
                "round_number": picture.run.round_number,
                "round_status": newest and newest.status.value,
                "mean_auc": newest and newest.mean_auc,
                "fused_digest": newest and newest.fused_digest,
                "phases": {name: node.phase and node.phase.value for name, node in sorted(picture.nodes.items())},
            },
            sort_keys=True,
        )
        if line != self._last:
            self._last = line
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
