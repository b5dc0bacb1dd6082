"""What node and coordinator say to each other. Frozen, no unknown keys; durations, never times to compare with a
local clock (the two `datetime`s here are for people to read)."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from hsl_model.protocol.config import Message, NodeId, RunConfig, Sha256
from hsl_model.protocol.manifest import Fraction, RunId, SignedManifest
from hsl_model.protocol.rotation import MAX_ROTATIONS, SignedRotation
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus

LEDGER_ID_PATTERN = r"^[0-9a-f]{32}$"
MAX_SEEN = 256  # runs, and revoked nodes, that a node names with every poll: some kilobytes at most

# --- enrolment -------------------------------------------------------------------------------------------------------


class EnrolRequest(Message):
    code: str = Field(min_length=8, max_length=128, description="one-time code from `hsl nodes add`")
    ssh_public_key: str = Field(min_length=20, max_length=1000, description="OpenSSH format, ssh-ed25519")
    signing_public_key: str = Field(min_length=40, max_length=64, description="base64 of 32 raw Ed25519 bytes")
    agent_version: str = Field(max_length=64)


class HubAddress(Message):
    host: str
    port: int = Field(ge=1, le=65535)
    username: str
    host_key: str = Field(description="OpenSSH public key line the node pins")


class HubPlace(Message):
    """What anybody may know of the hub: where it listens, so that a site's firewall can be opened before it joins.

    The host key to pin comes with the enrolment alone.
    """

    host: str = Field(max_length=255)
    port: int = Field(ge=1, le=65535)


class EnrolReply(Message):
    node_id: NodeId
    alliance: str
    token: str = Field(description="bearer token; the coordinator keeps only its hash")
    hub: HubAddress


class RotateRequest(Message):
    """New keys and a new token, made on site. `signed` holds the digest of the other two."""

    signed: SignedRotation
    ssh_public_key: str = Field(min_length=20, max_length=1000, description="OpenSSH format, ssh-ed25519")
    token_sha256: Sha256 = Field(description="of the new token, which never leaves the site before it is used")


# --- desired state ---------------------------------------------------------------------------------------------------


class Seen(Message):
    """The newest a node has seen of the coordinator's ledger. A ledger that has less was restored from a backup."""

    ledger_id: str = Field(pattern=LEDGER_ID_PATTERN)
    generation: int = Field(ge=1, lt=2**31)
    event_id: int = Field(ge=0, lt=2**62)
    rounds: dict[RunId, int] = Field(default_factory=dict, max_length=MAX_SEEN, description="newest round of each run")
    revoked: tuple[NodeId, ...] = Field(default=(), max_length=MAX_SEEN, description="nodes it was told are revoked")


class DesiredRequest(Message):
    """The long poll: answered at once when the state differs from `known_version`, else after `wait_s`."""

    known_version: str | None = None
    wait_s: float = Field(default=25.0, ge=0, le=55)
    missing: tuple[Sha256, ...] = Field(default=(), max_length=16, description="files this node needs and cannot find")
    seen: Seen | None = Field(default=None, description="None: this node has seen no ledger yet")


class RosterEntry(Message):
    """`earlier`: keys this node has rotated away from, whose signatures still count in the round at hand."""

    node_id: NodeId
    signing_public_key: str
    rotations: tuple[SignedRotation, ...] = Field(default=(), max_length=MAX_ROTATIONS)
    earlier: tuple[str, ...] = Field(default=(), max_length=MAX_ROTATIONS)


class Invitation(Message):
    """A run this site has been asked to join; its admin answers with `hsl node accept` or `withdraw`."""

    run_id: RunId
    config: RunConfig


class PlanEntry(Message):
    """One update of a fusion plan, in sorted node order. `weight` is applied as written, in float64."""

    node_id: NodeId
    update_sha256: Sha256
    update_bytes: int = Field(ge=0)
    manifest_sha256: Sha256
    weight: float = Field(ge=0)
    num_cases: int = Field(ge=0)


class FusionPlan(Message):
    run_id: RunId
    round_number: int = Field(ge=0)
    version: int = Field(ge=1)
    entries: tuple[PlanEntry, ...] = Field(min_length=1)
    fusers: tuple[NodeId, ...] = Field(default=(), description="they fuse and publish for all; empty: everybody fuses")
    audit: NodeId | None = Field(default=None, description="fuses too, to check the fusers; drawn by lot")
    replaced: tuple[NodeId, ...] = Field(default=(), description="of earlier versions: late, gone, or deviating")

    @property
    def voices(self) -> tuple[str, ...]:
        """Whose fusions are compared before anybody else takes one; empty: everybody's."""
        return self.fusers if self.audit is None else (*self.fusers, self.audit)

    def is_fused_by(self, node_id: str) -> bool:
        """Whether this node downloads the updates and fuses them, and does not fetch what others have fused."""
        return not self.fusers or node_id in self.voices


class FusedFile(Message):
    """A fused model every member can hold: the start of the next round, checked against the ledger."""

    round_number: int = Field(ge=0)
    fused_digest: Sha256
    file_sha256: Sha256
    file_bytes: int = Field(ge=0)
    on_hub: tuple[NodeId, ...] = Field(default=(), description="nodes in whose folder the file lies now")


class Announced(Message):
    """An update that may already be downloaded while the plan is not frozen."""

    node_id: NodeId
    update_sha256: Sha256
    update_bytes: int = Field(ge=0)


class Assignment(Message):
    """The one run and round this node should work on."""

    run_id: RunId
    run_status: RunStatus
    config: RunConfig
    members: tuple[NodeId, ...]
    round_number: int = Field(ge=0)
    round_status: RoundStatus
    participation: ParticipationStatus
    participation_reason: str | None = None
    accepted_sha256: Sha256 | None = Field(default=None, description="this node's update, if one was accepted")
    is_initialiser: bool = Field(default=False, description="round 0: this node builds the initial weights")
    start: FusedFile | None = Field(default=None, description="fused model of the round before; None in round 0")
    initial: FusedFile | None = Field(default=None, description="round 0's model, for tensors that are not shared")
    announced: tuple[Announced, ...] = ()
    plan: FusionPlan | None = None
    fused: FusedFile | None = Field(default=None, description="what the plan's fusers agree on, for the other members")
    redo_fusion: int = Field(default=0, description="how often this plan must be downloaded and fused anew")
    republish: tuple[Sha256, ...] = Field(default=(), description="own updates of this round that peers cannot find")
    keep: tuple[Sha256, ...] = Field(default=(), description="files of earlier rounds that must be kept")
    release_before: int = Field(default=0, description="files of rounds below this and not in `keep` may go")
    deadline_in_s: float | None = None
    waiting: str | None = Field(default=None, description="what is missing, who must act, since when")


class PublishRequest(Message):
    """Rule 7: put a file you keep into your folder on the hub, then say so with `POST /node/published`."""

    run_id: RunId
    file_sha256: Sha256


class Recovery(Message):
    """The ledger was restored from a backup: nothing is to be done until an admin has recovered it."""

    sentence: str
    records_from: dict[RunId, int] = Field(description="wanted: this node's records of these rounds and later ones")


class DesiredState(Message):
    version: str
    generation: int = Field(default=1, ge=1, description="of the ledger; raised when it was restored and recovered")
    recovery: Recovery | None = None
    revoked: tuple[NodeId, ...] = Field(default=(), description="to be remembered, should the ledger forget it")
    invitations: tuple[Invitation, ...] = ()
    roster: tuple[RosterEntry, ...] = ()
    assignment: Assignment | None = None
    publish: tuple[PublishRequest, ...] = ()
    finished_runs: tuple[RunId, ...] = Field(default=(), description="runs of this node that ended or it left")
    poll_again_in_s: float = 0.0


# --- what the node reports -------------------------------------------------------------------------------------------


class Progress(Message):
    """How far the current phase is. `unit` says of what; `attempt` counts from 1."""

    unit: Literal["bytes", "steps", "files"]
    done: int = Field(ge=0)
    total: int | None = Field(default=None, ge=0)
    rate_per_s: float | None = Field(
        default=None, ge=0, description="of `unit`, over the last seconds; None: not known"
    )
    attempt: int = Field(default=1, ge=1)


class Heartbeat(Message):
    phase: NodePhase
    run_id: RunId | None = None
    round_number: int | None = None
    progress: Progress | None = None
    waiting: str | None = Field(default=None, max_length=500)
    failure: str | None = Field(default=None, max_length=500, description="reason code and sentence of a FAILED phase")
    paused_by_site: bool = False


class ClassCounts(Message):
    positive: int = Field(ge=0)
    negative: int = Field(ge=0)


class TruthCounts(Message):
    """The counts of the truth report that a site sends when it accepts. No identifiers, no file names."""

    training: ClassCounts
    validation: ClassCounts
    test: ClassCounts
    num_unreadable: int = Field(default=0, ge=0)
    num_duplicates: int = Field(default=0, ge=0)
    num_conflicting: int = Field(default=0, ge=0)


class AcceptRequest(Message):
    counts: TruthCounts
    sat_digest: Sha256 | None = None


class AnnounceRequest(Message):
    signed: SignedManifest


class AnnounceReply(Message):
    participation: ParticipationStatus
    reason: str | None = None
    accepted_sha256: Sha256 | None


class RefusalKind(StrEnum):
    MISSING = "missing"  # the hub does not have it, or its bytes are not the announced ones
    CONTENT = "content"  # the bytes are the announced ones, and not acceptable
    LOST = "lost"  # said by the owner alone: it has no copy either, so nobody can publish it again


class RefusalReport(Message):
    plan_version: int = Field(ge=1)
    owner: NodeId
    update_sha256: Sha256
    kind: RefusalKind
    reason: str = Field(max_length=500)


class ValidationMetrics(Message):
    auc: Fraction | None = Field(description="None where the validation set has one class")
    loss: float | None = None
    num_cases: int = Field(ge=0)
    one_answer: bool = Field(default=False, description="every image got the same logit: training collapsed")


class RoundCosts(Message):
    """For the round's table; nothing is decided by it."""

    bytes_up: int = Field(default=0, ge=0)
    bytes_down: int = Field(default=0, ge=0)
    phase_seconds: dict[NodePhase, float] = Field(default_factory=dict)


class FusionReport(Message):
    """Sent after FUSING, and again after ADOPTING with `validation` filled in. The digests may not change between."""

    plan_version: int = Field(ge=1)
    fused_digest: Sha256 = Field(description="common: of the fused tensors; own: of the ordered inputs")
    file_sha256: Sha256 | None = Field(default=None, description="of the fused file; None for own and none")
    file_bytes: int | None = Field(default=None, ge=0)
    attempt: int = Field(default=0, ge=0, description="equals the assignment's redo_fusion")
    validation: ValidationMetrics | None = None
    costs: RoundCosts = Field(default_factory=RoundCosts)


class PublishedReport(Message):
    run_id: RunId
    file_sha256: Sha256
    file_bytes: int = Field(ge=0)
