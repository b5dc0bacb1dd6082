"""Following a run: what is read, what a terminal shows, what a log says, and how long silence is borne."""

from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from hsl_cli.errors import UnreachableError
from hsl_cli.live import MAX_SILENCE_S, Lines, Picture, Reader, Screen, follow, screen
from hsl_cli.run_tables import rounds_table
from hsl_cli.service import Service
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.protocol.states import NodeHealth, NodePhase, RoundStatus, RunStatus
from hsl_model.protocol.views import RunView
from tests.hsl_cli.helpers import FakeService, a_node, a_participation, a_round, a_run, digest

RUN = "/api/v1/runs/run-0000aaaa"
DONE = a_round(0, a_participation("site-1", digest("c")), fused=digest("c"))
OPEN = a_round(
    1, fused=None, status=RoundStatus.OPEN, plan=None, mean_auc=None, waiting="site-2 has not announced [since noon]"
)


def picture(**changed: object) -> Picture:
    nodes = {
        "site-1": a_node("site-1"),
        "site-2": a_node("site-2", NodePhase.UPLOADING, health=NodeHealth.LOST, last_seen_s=400.0),
    }
    given = {"run": a_run(), "rounds": (DONE, OPEN), "nodes": nodes, **changed}
    return Picture(**given)  # type: ignore[arg-type]


def test_a_round_that_is_over_is_read_once(coordinator: FakeService) -> None:
    coordinator.on("GET", RUN, a_run())
    coordinator.on("GET", f"{RUN}/rounds/0", DONE)
    coordinator.on("GET", f"{RUN}/rounds/1", OPEN)
    coordinator.on_page("/api/v1/nodes", a_node("site-1"), a_node("a-stranger"))
    with Service(coordinator.url, "t", name="the coordinator") as service:
        reader = Reader(service, "run-0000aaaa")
        first, second = reader.read(), reader.read()
    assert first == second
    assert list(first.nodes) == ["site-1"]
    paths = [path for _, path, _, _ in coordinator.asked]
    assert (paths.count(f"{RUN}/rounds/0"), paths.count(f"{RUN}/rounds/1")) == (1, 2)


def test_a_proxy_for_the_outside_world_is_not_asked_for_this_machine(
    coordinator: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.on("GET", RUN, a_run())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Service(coordinator.url, "t", name="the coordinator") as service:
        assert service.get(RUN, RunView) == a_run()


def test_a_terminal_shows_sites_scores_and_what_is_waited_for() -> None:
    console = Console(file=StringIO(), width=160)
    console.print(screen(picture()))
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    for said in (
        "round 1 of 2",
        "site-2 has not announced [since noon]",
        "3 of 9 steps",
        "lost (silent for 6 min 40 s)",
        "0.625 → 0.750",
    ):
        assert said in shown


def test_a_log_says_what_changed_and_nothing_twice() -> None:
    lines = Lines()
    assert lines.changes(picture()) == [
        "round 0 opened",
        "round 0: plan version 1 frozen with 1 updates",
        "round 0 completed: mean AUC 0.750, fused digest cccccccccccc",
        "round 1 opened",
        "run run-0000aaaa is running",
        "site-1 training, site-2 uploading",
    ]
    assert lines.changes(picture()) == []
    failed = {"site-1": a_node("site-1", NodePhase.FAILED, failure="no_space: free some")}
    assert lines.changes(picture(nodes=failed)) == [
        "site-1, round 1: no_space: free some",
        "site-1 failed",
    ]


def test_a_model_that_gives_every_image_one_answer_is_named_on_screen_in_the_log_and_in_the_table() -> None:
    collapsed = ValidationMetrics(auc=0.5, num_cases=20, one_answer=True)
    participations = (a_participation("site-1", digest("c"), validation=collapsed), a_participation("site-2", None))
    rounds = (a_round(0, *participations, fused=digest("c")),)
    log = Lines().changes(picture(rounds=rounds))
    assert "round 0 completed: mean AUC 0.750, fused digest cccccccccccc; site-1: every image gets one answer" in log
    console = Console(file=StringIO(), width=200)
    console.print(screen(picture(rounds=rounds)), rounds_table(rounds))
    assert isinstance(console.file, StringIO)
    assert "0.625 → 0.500 (one answer)" in console.file.getvalue()
    assert "site-1: every image gets one answer" in console.file.getvalue()


def test_on_a_terminal_notes_stay_above_the_live_picture() -> None:
    console = Console(file=StringIO(), width=160, height=50, force_terminal=True)
    with Screen(console) as shown:
        shown.note("hub ended with signal 9; restarted")
        shown.show(picture())
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("hub ended with signal 9; restarted") == 1
    assert "round 1 of 2" in console.file.getvalue()


def test_without_a_terminal_notes_are_lines() -> None:
    console = Console(file=StringIO(), width=160)
    with Screen(console) as shown:
        shown.note("hub restarted [log: x]")
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "hub restarted [log: x]\n"


class Scripted(Reader):
    """Each turn the next of these, the last one for ever."""

    def __init__(self, *turns: Picture | UnreachableError) -> None:
        self._turns: Iterator[Picture | UnreachableError] = iter(turns)
        self._last = turns[-1]

    def read(self) -> Picture:
        turn = next(self._turns, self._last)
        if isinstance(turn, UnreachableError):
            raise turn
        return turn


def test_a_coordinator_that_is_restarted_does_not_end_the_watch() -> None:
    seen: list[Picture] = []
    ended = picture(run=a_run(RunStatus.COMPLETED))
    gone = UnreachableError(reason="gone")
    assert follow(Scripted(picture(), gone, gone, ended), seen.append, clock=ManualClock()) is ended
    assert seen == [picture(), ended]


def test_a_coordinator_that_stays_away_does() -> None:
    clock = ManualClock()
    with pytest.raises(UnreachableError):
        follow(Scripted(picture(), UnreachableError(reason="gone")), lambda _: None, clock=clock)
    assert MAX_SILENCE_S < clock.monotonic() < MAX_SILENCE_S + 10
