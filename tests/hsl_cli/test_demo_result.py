"""From the ledger's rounds to result.json, the two tables and the figure."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from hsl_cli.demo.figure import draw
from hsl_cli.demo.result import DemoResult, auc_table, cost_table, outcome
from hsl_cli.demo.settings import Choices
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus
from hsl_model.protocol.views import RoundView
from tests.hsl_cli.helpers import LATER, a_participation, a_round, a_run, digest

CHOICES = Choices(
    sites=2,
    rounds=2,
    data=None,
    sat=None,
    method="hsl",
    seed=0,
    size=32,
    encoder="resnet_small",
    epochs=1,
    batch_size=8,
    cases=60,
    device="cpu",
)
DONE = a_run(RunStatus.COMPLETED, 2, best_round=2, best_mean_auc=0.75, finished_at=LATER)


def good_rounds() -> list[RoundView]:
    return [
        a_round(n, a_participation("site-1", digest(d)), a_participation("site-2", digest(d), None), fused=digest(d))
        for n, d in enumerate("abc")
    ]


def shown(renderable: object) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_run_with_equal_digests_everywhere_is_complete() -> None:
    result = outcome(DONE, good_rounds(), CHOICES)
    assert (result.complete, result.problem) == (True, None)
    assert result.final_digest == digest("c")
    assert result.duration_s == 125.0
    assert result.rounds[1].digests == {"site-1": digest("b"), "site-2": digest("b")}
    assert DemoResult.model_validate_json(result.model_dump_json()) == result


def test_totals_add_up_over_the_rounds() -> None:
    one = outcome(DONE, good_rounds(), CHOICES).sites["site-1"]
    assert (one.bytes_up, one.bytes_down, one.num_cases) == (12_000_000, 24_000_000, 120)
    assert one.phase_seconds == {NodePhase.TRAINING: 37.5, NodePhase.FUSING: 0.75}


def test_what_is_not_complete_says_why() -> None:
    rounds = good_rounds()
    stopped = a_run(RunStatus.STOPPED, 2, reason="an admin stopped it")
    assert "an admin stopped it" in str(outcome(stopped, rounds, CHOICES).problem)
    assert "lists 2 rounds" in str(outcome(DONE, rounds[:2], CHOICES).problem)
    other = a_round(
        1, a_participation("site-1", digest("b")), a_participation("site-2", digest("d")), fused=digest("b")
    )
    assert "site-2 reported another fused digest in round 1" in str(
        outcome(DONE, [rounds[0], other, rounds[2]], CHOICES).problem
    )
    silent = a_round(1, a_participation("site-1", digest("b")), fused=digest("b"))
    assert "site-2 reported no fused digest" in str(outcome(DONE, [rounds[0], silent, rounds[2]], CHOICES).problem)
    open_round = a_round(2, fused=None, status=RoundStatus.CANCELLED)
    assert "Round 2 is cancelled" in str(outcome(DONE, [*rounds[:2], open_round], CHOICES).problem)


def test_the_tables_show_every_site() -> None:
    rounds = good_rounds()
    late = a_participation(
        "site-2", None, status=ParticipationStatus.EXCLUDED, reason="late", metrics=None, validation=None, costs=None
    )
    rounds[2] = a_round(2, a_participation("site-1", digest("c")), late, fused=digest("c"))
    result = outcome(DONE, rounds, CHOICES)
    aucs, costs = shown(auc_table(result)), shown(cost_table(result))
    assert "0.625 → 0.750" in aucs
    assert "0.625 → -" in aucs  # an undefined AUC is said to be so
    assert "excluded: late" in aucs
    assert "cccccccccccc │ 1 of 2" in aucs
    assert "24.0 MB" in costs
    assert "37.5 s" in costs
    assert "fusing" in costs
    assert "uploading" not in costs  # no column for a phase nobody was in


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "auc.png"
    draw(outcome(DONE, good_rounds(), CHOICES), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["auc.png"]
