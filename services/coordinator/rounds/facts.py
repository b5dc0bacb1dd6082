"""Everything that is decided about one run, read at one moment. The rules are functions of this and of `now`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.tables import MemberRow, NodeRow, ParticipationRow, RoundRow, RunRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import FusionPlan, FusionReport
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, MembershipStatus, NodeStatus, ParticipationStatus, RunStatus

GONE = frozenset({ParticipationStatus.EXCLUDED, ParticipationStatus.FAILED})
UNANNOUNCED = frozenset({ParticipationStatus.ASSIGNED, ParticipationStatus.TRAINING, ParticipationStatus.UPLOADING})
ACCEPTED = frozenset({ParticipationStatus.ANNOUNCED, ParticipationStatus.FUSING, ParticipationStatus.FUSED})
LIVE_RUN = (RunStatus.RUNNING, RunStatus.PAUSED)


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


def report_of(row: ParticipationRow) -> FusionReport | None:
    return None if row.report is None else FusionReport.model_validate(row.report)


def departure(facts: RunFacts, node_id: str) -> str | None:
    """Why a node may not take part any more: `revoked`, `withdrawn`, or None."""
    if facts.nodes[node_id].status == NodeStatus.REVOKED:
        return "revoked"
    return "withdrawn" if facts.members[node_id].status == MembershipStatus.WITHDRAWN else None
