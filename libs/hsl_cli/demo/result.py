"""result.json: what the coordinator's ledger says of the run, and whether the demo did what it promises."""

from collections.abc import Sequence

from pydantic import Field
from rich.table import Table

from hsl_cli.demo.settings import Choices
from hsl_cli.output import num_bytes, seconds, table
from hsl_cli.output import text as cell_text
from hsl_cli.run_tables import short
from hsl_model.protocol.config import Message
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus
from hsl_model.protocol.views import ParticipationView, RoundView, RunView


class SiteRound(Message):
    """What one site did in one round. AUCs are of its validation set: of its own update, and of the fused model."""

    status: ParticipationStatus
    reason: str | None
    auc_before: float | None
    auc_after: float | None
    num_cases: int | None
    weight: float | None
    bytes_up: int
    bytes_down: int
    phase_seconds: dict[NodePhase, float]


class RoundOutcome(Message):
    round_number: int
    status: RoundStatus
    fused_digest: str | None
    digests: dict[str, str | None] = Field(description="the fused digest that each node reported")
    mean_auc: float | None
    duration_s: float | None
    sites: dict[str, SiteRound]


class SiteTotals(Message):
    num_cases: int | None = Field(description="training cases")
    bytes_up: int
    bytes_down: int
    phase_seconds: dict[NodePhase, float]


class DemoResult(Message):
    run_id: str
    status: RunStatus
    complete: bool = Field(description="every round completed with equal digests from every node")
    problem: str | None = Field(description="why not")
    num_rounds: int
    best_round: int | None
    best_mean_auc: float | None
    final_digest: str | None
    duration_s: float | None = Field(description="from the run's start to its end, pauses and restarts included")
    rounds: tuple[RoundOutcome, ...]
    sites: dict[str, SiteTotals]
    choices: Choices


def outcome(run: RunView, rounds: Sequence[RoundView], choices: Choices) -> DemoResult:
    made = tuple(_round(found) for found in rounds)
    problem = find_problem(run, made, choices.node_ids())
    ended, began = run.finished_at, run.started_at
    return DemoResult(
        run_id=run.run_id,
        status=run.status,
        complete=problem is None,
        problem=problem,
        num_rounds=run.num_rounds,
        best_round=run.best_round,
        best_mean_auc=run.best_mean_auc,
        final_digest=made[-1].fused_digest if made else None,
        duration_s=(ended - began).total_seconds() if ended and began else None,
        rounds=made,
        sites={node_id: _totals(node_id, made) for node_id in choices.node_ids()},
        choices=choices,
    )


def find_problem(run: RunView, rounds: Sequence[RoundOutcome], node_ids: Sequence[str]) -> str | None:
    """The first reason why the demo failed, or None: every round completed, one digest from every node."""
    if run.status is not RunStatus.COMPLETED:
        return f"The run is {run.status}: {run.reason or 'no reason was given'}."
    if [found.round_number for found in rounds] != list(range(run.num_rounds + 1)):
        return f"Rounds 0 to {run.num_rounds} were expected, but the coordinator lists {len(rounds)} rounds."
    for found in rounds:
        if found.status is not RoundStatus.COMPLETED:
            return f"Round {found.round_number} is {found.status}."
        for node_id in node_ids:
            digest = found.digests.get(node_id)
            if digest is None:
                return f"{node_id} reported no fused digest in round {found.round_number}."
            if digest != found.fused_digest:
                return f"{node_id} reported another fused digest in round {found.round_number}."
    return None


def _round(found: RoundView) -> RoundOutcome:
    duration = found.completed_at - found.opened_at if found.completed_at else None
    return RoundOutcome(
        round_number=found.round_number,
        status=found.status,
        fused_digest=found.fused_digest,
        digests={one.node_id: one.fused_digest for one in found.participations},
        mean_auc=found.mean_auc,
        duration_s=duration.total_seconds() if duration else None,
        sites={one.node_id: _site(one) for one in found.participations},
    )


def _site(one: ParticipationView) -> SiteRound:
    return SiteRound(
        status=one.status,
        reason=one.reason,
        auc_before=one.metrics.validation_auc if one.metrics else None,
        auc_after=one.validation.auc if one.validation else None,
        num_cases=one.num_cases,
        weight=one.weight,
        bytes_up=one.costs.bytes_up if one.costs else 0,
        bytes_down=one.costs.bytes_down if one.costs else 0,
        phase_seconds=dict(one.costs.phase_seconds) if one.costs else {},
    )


def _totals(node_id: str, rounds: Sequence[RoundOutcome]) -> SiteTotals:
    mine = [found.sites[node_id] for found in rounds if node_id in found.sites]
    phases: dict[NodePhase, float] = {}
    for one in mine:
        for phase, spent in one.phase_seconds.items():
            phases[phase] = phases.get(phase, 0.0) + spent
    return SiteTotals(
        num_cases=max((one.num_cases for one in mine if one.num_cases), default=None),
        bytes_up=sum(one.bytes_up for one in mine),
        bytes_down=sum(one.bytes_down for one in mine),
        phase_seconds=phases,
    )


def auc_table(result: DemoResult) -> Table:
    """A line a round: each site's AUC before and after fusion, the mean, and how many reported the fused digest."""
    nodes = list(result.sites)
    rows = []
    for found in result.rounds:
        cells = [_before_after(found.sites.get(node_id)) for node_id in nodes]
        num_equal = sum(digest is not None and digest == found.fused_digest for digest in found.digests.values())
        equal = f"{num_equal} of {len(nodes)}"
        rows.append((found.round_number, *cells, found.mean_auc, short(found.fused_digest), equal))
    title = "Validation AUC, before → after fusion"
    return table(title, ("round", *nodes, "mean", "fused digest", "equal"), rows)


def cost_table(result: DemoResult) -> Table:
    """A column a site: its cases, what it moved, and where its time went."""
    sites = list(result.sites.values())
    rows: list[tuple[object, ...]] = [
        ("training cases", *(one.num_cases for one in sites)),
        ("bytes up", *(num_bytes(one.bytes_up) for one in sites)),
        ("bytes down", *(num_bytes(one.bytes_down) for one in sites)),
    ]
    for phase in NodePhase:
        if any(phase in one.phase_seconds for one in sites):
            rows.append((phase.value, *(seconds(one.phase_seconds.get(phase, 0.0)) for one in sites)))
    return table("Cases, traffic, and time in each phase", ("", *result.sites), rows)


def _before_after(one: SiteRound | None) -> str:
    if one is None:
        return "not a member"
    if one.status in (ParticipationStatus.EXCLUDED, ParticipationStatus.FAILED):
        return f"{one.status.value}: {one.reason}"
    return f"{cell_text(one.auc_before)} → {cell_text(one.auc_after)}"
