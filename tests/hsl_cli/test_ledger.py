"""`hsl coordinator backup` and `recover`: what is shown, what has to be meant, and what is sent."""

import json
from collections.abc import Callable

from typer.testing import Result

from hsl_model.protocol.views import LedgerView, NodeGapView, RecoveredView, RevokedGapView, RunGapView
from tests.hsl_cli.helpers import FakeService

Hsl = Callable[..., Result]
LEDGER = "/api/v1/ledger"
RUN = "run-0000aaaa"


def a_gap(**changes: object) -> LedgerView:
    view = LedgerView(
        ledger_id="ab" * 16,
        generation=1,
        event_id=80,
        is_held=True,
        reason="site-1 has seen event 120 (the ledger ends with 80).",
        nodes=(NodeGapView(node_id="site-1", generation=1, events_ahead=40, rounds={RUN: 5}, has_answered=True),),
        unheard=("site-3",),
        runs=(
            RunGapView(
                run_id=RUN,
                name="bones",
                newest_round=3,
                newest_seen=5,
                seen_by=("site-1",),
                replayable=(3, 4),
                obstacle=None,
            ),
            RunGapView(
                run_id="run-0000bbbb",
                name=None,
                newest_round=None,
                newest_seen=1,
                seen_by=("site-1",),
                replayable=(),
                obstacle=None,
            ),
        ),
        revoked=(RevokedGapView(node_id="site-2", seen_by=("site-1",)),),
    )
    return view.model_copy(update=changes)


def a_recovery() -> RecoveredView:
    return RecoveredView(
        generation=2, revoked=("site-2",), rounds={RUN: (3, 4)}, unknown_runs=("run-0000bbbb",), to_resume=(RUN,)
    )


def test_the_gap_is_shown_and_recovering_wants_to_be_meant(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", LEDGER, a_gap())
    shown = admin("coordinator", "recover", "--wait", "0")
    assert shown.exit_code == 2
    assert "--yes" in shown.stderr
    for text in ("site-1 has seen event 120", "site-3", "3, 4", "created after the backup", "site-2"):
        assert text in shown.stdout, text
    assert {method for method, *_ in coordinator.asked} == {"GET"}


def test_recovering_says_what_was_done_and_what_comes_next(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", LEDGER, a_gap())
    coordinator.on("POST", f"{LEDGER}/recover", a_recovery())
    done = admin("coordinator", "recover", "--wait", "0", "--yes", "--not-revoked", "site-4")
    assert done.exit_code == 0, done.stderr
    for text in ("generation 2", "site-2 is revoked", "completed round 3, 4", f"hsl run resume {RUN}"):
        assert text in done.stdout, text
    assert coordinator.asked[-1][:3] == (
        "POST",
        f"{LEDGER}/recover",
        {"generation": 1, "not_revoked": ["site-4"]},
    )


def test_sites_that_have_not_spoken_are_waited_for(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", LEDGER, a_gap(), a_gap(unheard=()))
    coordinator.on("POST", f"{LEDGER}/recover", a_recovery())
    done = admin("coordinator", "recover", "--yes", "--json")
    assert "Waiting up to 60 s for site-3." in done.stderr
    said = json.loads(done.stdout)
    assert (said["ledger"]["unheard"], said["recovered"]["generation"]) == ([], 2)


def test_a_whole_ledger_needs_nothing(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", LEDGER, a_gap(is_held=False, reason=None))
    done = admin("coordinator", "recover", "--yes")
    assert (done.exit_code, len(coordinator.asked)) == (0, 1)
    assert "Nothing is to be recovered" in done.stdout
