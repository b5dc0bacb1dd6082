"""What the coordinator shows an admin: the answers of its listing endpoints, read by command line and dashboards."""

from datetime import datetime
from typing import Generic, TypeVar

from pydantic import Field

from hsl_model.protocol.config import Message, NodeId, RunConfig
from hsl_model.protocol.manifest import UpdateMetrics
from hsl_model.protocol.messages import FusionPlan, Progress, RoundCosts, TruthCounts, ValidationMetrics
from hsl_model.protocol.states import (
    MembershipStatus,
    NodeHealth,
    NodePhase,
    NodeStatus,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)

Item = TypeVar("Item")


class Page(Message, Generic[Item]):
    """One page of a list, ordered by id or time. `total` counts what the filter matches."""

    items: tuple[Item, ...]
    total: int
    offset: int
    limit: int


class NodeView(Message):
    node_id: NodeId
    display_name: str
    status: NodeStatus
    health: NodeHealth
    phase: NodePhase | None
    run_id: str | None
    round_number: int | None
    progress: Progress | None
    waiting: str | None = Field(description="what the node says it waits for")
    failure: str | None
    paused_by_site: bool
    duplicate_instance: bool = Field(description="a second live agent was refused; release it with `hsl nodes release`")
    boot_number: int | None
    last_seen_s: float | None = Field(description="seconds since the last contact")
    signing_public_key: str | None
    created_at: datetime
    enrolled_at: datetime | None
    revoked_at: datetime | None


class NodeCreated(Message):
    """The one answer that carries the code; the coordinator keeps only its hash."""

    node_id: NodeId
    code: str
    expires_in_s: float


class MemberView(Message):
    node_id: NodeId
    status: MembershipStatus
    counts: TruthCounts | None


class RunView(Message):
    run_id: str
    name: str
    status: RunStatus
    reason: str | None
    waiting: str | None = Field(description="what is missing, who must act, since when")
    round_number: int | None = Field(description="the newest round")
    num_rounds: int
    best_round: int | None
    best_mean_auc: float | None
    config: RunConfig
    members: tuple[MemberView, ...]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ParticipationView(Message):
    """One line of a round's participation record: who, cases, steps, weight, excluded and why."""

    node_id: NodeId
    status: ParticipationStatus
    reason: str | None
    update_sha256: str | None
    update_bytes: int | None
    num_cases: int | None
    weight: float | None
    metrics: UpdateMetrics | None
    fused_digest: str | None
    plan_version: int | None = Field(description="of the plan the fusion report speaks of")
    validation: ValidationMetrics | None
    costs: RoundCosts | None
    phase: NodePhase | None = Field(default=None, description="of the node's agent, while it works on this round")
    progress: Progress | None = Field(default=None, description="how far that phase is")


class RoundView(Message):
    run_id: str
    round_number: int
    status: RoundStatus
    reason: str | None
    waiting: str | None
    plan: FusionPlan | None
    fused_digest: str | None
    fused_file_sha256: str | None
    mean_auc: float | None = Field(description="mean over nodes of the validation AUC after fusion")
    participations: tuple[ParticipationView, ...]
    opened_at: datetime
    frozen_at: datetime | None
    completed_at: datetime | None
    deadline_in_s: float | None


class EventView(Message):
    event_id: int
    at: datetime
    kind: str
    actor: str
    run_id: str | None
    round_number: int | None
    node_id: str | None
    data: dict[str, str | int | float | bool | None]


class NodeGapView(Message):
    """What one node has seen that the ledger does not have."""

    node_id: NodeId
    generation: int
    events_ahead: int = Field(description="0: this node has seen no more than the ledger has, or less")
    rounds: dict[str, int] = Field(description="run id -> the newest round it has seen")
    has_answered: bool = Field(description="all the records it was asked for are here")


class RunGapView(Message):
    run_id: str
    name: str | None = Field(description="None: the ledger does not know this run")
    newest_round: int | None = Field(description="of the ledger")
    newest_seen: int = Field(description="the newest round that a node has seen")
    seen_by: tuple[NodeId, ...]
    replayable: tuple[int, ...] = Field(description="rounds that the nodes' records complete")
    obstacle: str | None = Field(description="why the round after those cannot be replayed")


class RevokedGapView(Message):
    """A node that the ledger has as enrolled, and others as revoked."""

    node_id: NodeId
    seen_by: tuple[NodeId, ...]


class LedgerView(Message):
    ledger_id: str
    generation: int
    event_id: int
    is_held: bool = Field(description="restored from a backup, and not recovered yet")
    reason: str | None
    nodes: tuple[NodeGapView, ...] = ()
    unheard: tuple[NodeId, ...] = Field(default=(), description="enrolled, and silent since the ledger is held")
    runs: tuple[RunGapView, ...] = ()
    revoked: tuple[RevokedGapView, ...] = ()


class RecoveredView(Message):
    """What a recovery did."""

    generation: int
    revoked: tuple[NodeId, ...]
    rounds: dict[str, tuple[int, ...]] = Field(description="run id -> rounds that were written as completed")
    unknown_runs: tuple[str, ...]
    to_resume: tuple[str, ...] = Field(description="paused runs; `hsl run resume` lets each go on")
