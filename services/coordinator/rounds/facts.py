"""Everything that is decided about one run, read at one moment. The rules are functions of this and of `now`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.rounds.fusers import Election
from coordinator.tables import MemberRow, NodeRow, ParticipationRow, RoundRow, RunRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import FusionPlan, FusionReport
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, MembershipStatus, NodeStatus, ParticipationStatus, RunStatus

GONE = frozenset({ParticipationStatus.EXCLUDED, ParticipationStatus.FAILED})
UNANNOUNCED = frozenset({ParticipationStatus.ASSIGNED, ParticipationStatus.TRAINING, ParticipationStatus.UPLOADING})
ACCEPTED = frozenset({ParticipationStatus.ANNOUNCED, ParticipationStatus.FUSING, ParticipationStatus.FUSED})
LIVE_RUN = (RunStatus.RUNNING, RunStatus.PAUSED)


class Outcome(NamedTuple):
    """What a fusion came to; equal where the bits are. No file where the method has no common model."""

    fused_digest: str
    file_sha256: str | None
    file_bytes: int | None


@dataclass(frozen=True)
class Spoken:
    """What fusers and audit have said about the plan in force."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    on_hub: frozenset[str] = frozenset()  # who has published the very file it reported

    def is_done(self, fuser: str) -> bool:
        return fuser in self.outcomes and fuser in self.on_hub


@dataclass
class RunFacts:
    """A run, its people, and its newest round. Mappings are in sorted order of node ids."""

    run: RunRow
    config: RunConfig
    members: Mapping[str, MemberRow]
    nodes: Mapping[str, NodeRow]  # of the members
    newest: RoundRow | None = None
    participations: Mapping[str, ParticipationRow] = field(default_factory=dict)  # of the newest round
    held_because: str | None = None  # why no run goes on; looked up for a run that the ledger's restoration paused
    spoken: Spoken = field(default_factory=Spoken)

    @property
    def status(self) -> RunStatus:
        return RunStatus(self.run.status)

    @property
    def fused_kind(self) -> Fused:
        """What the members hold after the newest round. Round 0, the initial weights, is common for every method."""
        if self.newest is None or self.newest.round_number == 0:
            return Fused.COMMON
        return method_facts(self.config.method.name).fused

    def having(self, *statuses: ParticipationStatus) -> list[ParticipationRow]:
        return [row for row in self.participations.values() if row.status in statuses]

    def staying(self) -> list[str]:
        """The nodes of the round that are not excluded; a FAILED one may still be retried by its site."""
        return [node for node, row in self.participations.items() if row.status != ParticipationStatus.EXCLUDED]

    def initialiser(self) -> str | None:
        """Round 0: the first member that is neither excluded nor failed builds the initial weights."""
        return next((node for node, row in self.participations.items() if row.status not in GONE), None)

    def can_join(self) -> list[str]:
        """Who becomes a member of the next round that opens."""
        return [
            node
            for node, member in self.members.items()
            if member.status == MembershipStatus.ACCEPTED and self.nodes[node].status == NodeStatus.ENROLLED
        ]

    def plan(self) -> FusionPlan | None:
        if self.newest is None or self.newest.plan is None:
            return None
        return FusionPlan.model_validate(self.newest.plan)

    @property
    def agreed(self) -> Outcome | None:
        """What the plan's fusers agree on. None while they do not, and where everybody fuses for himself."""
        row = self.newest
        if row is None or not voices_of(row) or row.fused_digest is None:
            return None
        return Outcome(row.fused_digest, row.fused_file_sha256, row.fused_file_bytes)

    def election(self) -> Election:
        if self.newest is None:
            raise LookupError("no round yet")
        return Election(self.config, self.run.run_id, self.newest.round_number, tuple(self.participations))


def voices_of(row: RoundRow) -> tuple[str, ...]:
    """`FusionPlan.voices` of the plan in force, without reading all of it."""
    plan = row.plan or {}
    return tuple(name for name in (*plan.get("fusers", ()), plan.get("audit")) if name is not None)


def outcome_of(said: FusionReport) -> Outcome:
    return Outcome(said.fused_digest, said.file_sha256, said.file_bytes)


def report_of(row: ParticipationRow) -> FusionReport | None:
    return None if row.report is None else FusionReport.model_validate(row.report)


def departure(facts: RunFacts, node_id: str) -> str | None:
    """Why a node may not take part any more: `revoked`, `withdrawn`, or None."""
    if facts.nodes[node_id].status == NodeStatus.REVOKED:
        return "revoked"
    return "withdrawn" if facts.members[node_id].status == MembershipStatus.WITHDRAWN else None
