"""What one round has established so far at this node: the durable facts behind a phase, one JSON in the journal.

Facts only grow while a round goes on; a phase returns a copy with its own field filled. `None` means "not yet".
"""

from pydantic import Field

from hsl_model.protocol.config import Message, NodeId, RunConfig, Sha256
from hsl_model.protocol.manifest import RunId, SignedManifest, TensorSpec, UpdateMetrics
from hsl_model.protocol.messages import FusedFile, FusionPlan, RosterEntry, RoundCosts, ValidationMetrics
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused


class UpdateFacts(Message):
    """TRAINING: what this node made. `sha256` of an empty update (method Local) is that of no bytes."""

    sha256: Sha256
    num_bytes: int = Field(ge=0)
    private_sha256: Sha256 | None = None
    metrics: UpdateMetrics
    num_cases: int = Field(ge=0)


class PlanFacts(Message):
    """WAITING: the frozen plan, the keys its manifests must be signed with, and which attempt at it this is."""

    plan: FusionPlan
    roster: tuple[RosterEntry, ...]
    redo: int = 0
    refused: tuple[str, ...] = Field(default=(), description="what VERIFYING reported; waits for the next version")
    fetched: FusedFile | None = Field(default=None, description="the model that the plan's fusers made for this node")


class FusedModel(Message):
    """FUSING: what was fused and reported. `model_sha256` is the local file: common, own, or None for `none`."""

    plan_version: int
    redo: int
    digest: Sha256
    model_sha256: Sha256 | None
    model_bytes: int | None = None


class RoundFacts(Message):
    run_id: RunId
    round_number: int = Field(ge=0)
    generation: int = Field(default=1, description="of the coordinator's ledger that knows of all this")
    config: RunConfig
    is_initialiser: bool = False
    start: FusedFile | None = None
    initial: FusedFile | None = None
    expected: tuple[TensorSpec, ...] | None = Field(default=None, description="tensors an update of this round has")
    update: UpdateFacts | None = None
    signed: SignedManifest | None = None
    accepted_sha256: Sha256 | None = None
    left_out: str | None = Field(default=None, description="why this node's update is not in the round")
    planned: PlanFacts | None = None
    fused: FusedModel | None = None
    validation: ValidationMetrics | None = None
    costs: RoundCosts = Field(default_factory=RoundCosts)

    @property
    def key(self) -> tuple[str, int]:
        return (self.run_id, self.round_number)

    @property
    def fused_kind(self) -> Fused:
        """Round 0 carries the initial weights and is common for every method."""
        return Fused.COMMON if self.round_number == 0 else method_facts(self.config.method.name).fused

    @property
    def exchanges_files(self) -> bool:
        return self.fused_kind is not Fused.NONE

    @property
    def plan(self) -> FusionPlan:
        """The frozen plan; only phases behind WAITING ask for it."""
        if self.planned is None:
            raise LookupError("no plan yet")
        return self.planned.plan

    def with_plan(self, plan: FusionPlan, roster: tuple[RosterEntry, ...], redo: int) -> "RoundFacts":
        """A plan, or a newer version of it: whatever was fused before is thrown away."""
        planned = PlanFacts(plan=plan, roster=roster, redo=redo)
        return self.model_copy(update={"planned": planned, "fused": None, "validation": None})

    def unannounced(self, generation: int) -> "RoundFacts":
        """What is left when the ledger was restored from before this node's announce: the update, to be told again."""
        forgotten = {"accepted_sha256": None, "planned": None, "fused": None, "validation": None}
        return self.model_copy(update={**forgotten, "generation": generation})

    def own_in_plan(self, node_id: NodeId) -> bool:
        return self.planned is not None and any(entry.node_id == node_id for entry in self.planned.plan.entries)
