"""States and their transition tables: the only moves that exist.

Run:            DRAFT -> RUNNING <-> PAUSED -> COMPLETED | STOPPED | FAILED
Round:          OPEN -> FUSING -> COMPLETED | FAILED | CANCELLED
Participation:  ASSIGNED -> TRAINING -> UPLOADING -> ANNOUNCED -> FUSING -> FUSED | EXCLUDED(reason) | FAILED(reason)
Node phase:     IDLE -> TRAINING -> CHECKPOINTING -> UPLOADING -> ANNOUNCING -> WAITING -> DOWNLOADING -> VERIFYING
                -> FUSING -> ADOPTING -> IDLE, and from anywhere to IDLE (stopped, excluded) or FAILED;
                from WAITING on back to ANNOUNCING, when the coordinator's ledger was restored and does not know it
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from hsl_model.protocol.errors import IllegalTransitionError


class RunStatus(StrEnum):
    DRAFT = "draft"  # configured; members may accept
    RUNNING = "running"  # rounds open one after the other
    PAUSED = "paused"  # no training, no new round, deadlines stand still
    COMPLETED = "completed"  # converged or at its round limit
    STOPPED = "stopped"  # ended by an admin
    FAILED = "failed"  # cannot go on; the reason says why


class RoundStatus(StrEnum):
    OPEN = "open"  # members train and announce
    FUSING = "fusing"  # the plan is frozen; members fuse and report
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"  # the run was stopped


class ParticipationStatus(StrEnum):
    ASSIGNED = "assigned"  # the round is open and the member has not begun
    TRAINING = "training"
    UPLOADING = "uploading"
    ANNOUNCED = "announced"  # its update is accepted
    FUSING = "fusing"  # in the frozen plan
    FUSED = "fused"  # its fusion report for the newest plan agrees
    EXCLUDED = "excluded"  # not in the plan, or its fusion deviates; see the reason
    FAILED = "failed"


class MembershipStatus(StrEnum):
    INVITED = "invited"  # named by the run; its admin has not answered
    ACCEPTED = "accepted"  # a member
    WITHDRAWN = "withdrawn"


class NodeStatus(StrEnum):
    CREATED = "created"  # has a one-time code, no keys yet
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class NodeHealth(StrEnum):
    """Computed from the last contact and `now`; never stored."""

    NEVER_SEEN = "never_seen"
    ONLINE = "online"
    LATE = "late"
    LOST = "lost"


class NodePhase(StrEnum):
    IDLE = "idle"
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    UPLOADING = "uploading"
    ANNOUNCING = "announcing"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    FUSING = "fusing"
    ADOPTING = "adopting"
    FAILED = "failed"


class Fused(StrEnum):
    """What a method's members hold after fusion, and so what the coordinator compares."""

    COMMON = "common"  # one model, the same bits everywhere: the fused digest is compared
    OWN = "own"  # every node keeps a mixture of its own: the digest of the ordered inputs is compared
    NONE = "none"  # nothing is exchanged after the initial weights


RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.DRAFT: frozenset({RunStatus.RUNNING, RunStatus.STOPPED}),
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED}),
    RunStatus.PAUSED: frozenset({RunStatus.RUNNING, RunStatus.STOPPED, RunStatus.FAILED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.STOPPED: frozenset(),
    RunStatus.FAILED: frozenset(),
}

ROUND_TRANSITIONS: Mapping[RoundStatus, frozenset[RoundStatus]] = {
    RoundStatus.OPEN: frozenset({RoundStatus.FUSING, RoundStatus.FAILED, RoundStatus.CANCELLED}),
    RoundStatus.FUSING: frozenset({RoundStatus.COMPLETED, RoundStatus.FAILED, RoundStatus.CANCELLED}),
    RoundStatus.COMPLETED: frozenset(),
    RoundStatus.FAILED: frozenset(),
    RoundStatus.CANCELLED: frozenset(),
}

_GONE = frozenset({ParticipationStatus.EXCLUDED, ParticipationStatus.FAILED})

PARTICIPATION_TRANSITIONS: Mapping[ParticipationStatus, frozenset[ParticipationStatus]] = {
    ParticipationStatus.ASSIGNED: _GONE
    | {
        ParticipationStatus.TRAINING,
        ParticipationStatus.UPLOADING,
        ParticipationStatus.ANNOUNCED,
        ParticipationStatus.FUSING,  # round 0: everyone fuses the initial weights, one member announced them
    },
    ParticipationStatus.TRAINING: _GONE
    | {ParticipationStatus.ASSIGNED, ParticipationStatus.UPLOADING, ParticipationStatus.ANNOUNCED},
    ParticipationStatus.UPLOADING: _GONE | {ParticipationStatus.TRAINING, ParticipationStatus.ANNOUNCED},
    ParticipationStatus.ANNOUNCED: _GONE | {ParticipationStatus.FUSING},
    ParticipationStatus.FUSING: _GONE | {ParticipationStatus.FUSED},
    ParticipationStatus.FUSED: _GONE | {ParticipationStatus.FUSING},  # a newer plan version: fuse again
    ParticipationStatus.EXCLUDED: frozenset(),
    ParticipationStatus.FAILED: frozenset(
        {ParticipationStatus.ASSIGNED, ParticipationStatus.EXCLUDED}  # the site retries; it left, or retried too late
    ),
}

MEMBERSHIP_TRANSITIONS: Mapping[MembershipStatus, frozenset[MembershipStatus]] = {
    MembershipStatus.INVITED: frozenset({MembershipStatus.ACCEPTED, MembershipStatus.WITHDRAWN}),
    MembershipStatus.ACCEPTED: frozenset({MembershipStatus.WITHDRAWN}),
    MembershipStatus.WITHDRAWN: frozenset(),  # a repeated "accept" that was under way cannot undo it
}

_ROUND_TRIP = (
    NodePhase.TRAINING,
    NodePhase.CHECKPOINTING,
    NodePhase.UPLOADING,
    NodePhase.ANNOUNCING,
    NodePhase.WAITING,
    NodePhase.DOWNLOADING,
    NodePhase.VERIFYING,
    NodePhase.FUSING,
    NodePhase.ADOPTING,
)
_ALWAYS = frozenset({NodePhase.IDLE, NodePhase.FAILED})

PHASE_TRANSITIONS: Mapping[NodePhase, frozenset[NodePhase]] = {
    NodePhase.IDLE: frozenset(
        {
            NodePhase.TRAINING,
            NodePhase.CHECKPOINTING,  # round 0: the first member builds the initial weights
            NodePhase.WAITING,  # announced earlier, or has nothing to contribute to this round
            NodePhase.DOWNLOADING,  # a late node fuses the frozen plan without itself
            NodePhase.ANNOUNCING,  # adopted, and the restored ledger does not know the update any more
            NodePhase.FAILED,
        }
    ),
    NodePhase.TRAINING: _ALWAYS | {NodePhase.CHECKPOINTING, NodePhase.DOWNLOADING},
    NodePhase.CHECKPOINTING: _ALWAYS | {NodePhase.UPLOADING, NodePhase.ANNOUNCING, NodePhase.DOWNLOADING},
    NodePhase.UPLOADING: _ALWAYS | {NodePhase.ANNOUNCING, NodePhase.DOWNLOADING},
    NodePhase.ANNOUNCING: _ALWAYS | {NodePhase.WAITING, NodePhase.DOWNLOADING},
    NodePhase.WAITING: _ALWAYS | {NodePhase.DOWNLOADING, NodePhase.ANNOUNCING},
    NodePhase.DOWNLOADING: _ALWAYS | {NodePhase.VERIFYING, NodePhase.ANNOUNCING},
    NodePhase.VERIFYING: _ALWAYS | {NodePhase.DOWNLOADING, NodePhase.FUSING, NodePhase.ANNOUNCING},
    NodePhase.FUSING: _ALWAYS | {NodePhase.DOWNLOADING, NodePhase.ADOPTING, NodePhase.ANNOUNCING},
    NodePhase.ADOPTING: _ALWAYS | {NodePhase.DOWNLOADING, NodePhase.ANNOUNCING},
    NodePhase.FAILED: frozenset({NodePhase.IDLE, *_ROUND_TRIP}),
}

State = TypeVar("State", bound=StrEnum)


def check_transition(table: Mapping[State, frozenset[State]], source: State, target: State) -> None:
    """Raise `IllegalTransitionError` unless `table` allows `source -> target`."""
    if target not in table[source]:
        raise IllegalTransitionError(source=source.value, target=target.value)


def sources_of(table: Mapping[State, frozenset[State]], target: State) -> tuple[State, ...]:
    """The states from which `target` may be reached: what a guarded UPDATE puts behind `status IN`."""
    return tuple(source for source, targets in table.items() if target in targets)
