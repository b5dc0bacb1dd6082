"""The tables. The truth of every run is here; nothing that can be computed from facts and `now` is stored.

Messages of the protocol that are kept whole (config, manifest, plan, progress) are JSON columns of their model dumps.
Times are aware UTC datetimes.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python on every database; SQLite itself keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("only aware datetimes are stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012


class NodeRow(Base):
    """A hospital: identity, enrolment, and what its agent last said."""

    __tablename__ = "nodes"

    node_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(120))
    status: Mapped[str] = mapped_column(String(16))  # NodeStatus
    code_hash: Mapped[str | None] = mapped_column(String(64), unique=True)  # SHA-256 of the one-time code
    code_expires_at: Mapped[datetime | None]
    code_taken_by: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of the keys that enrolled with the code
    token_hash: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of the bearer token
    token_used_at: Mapped[datetime | None]  # first request with it: from then on the code cannot be used again
    next_token_hash: Mapped[str | None] = mapped_column(String(64))  # of a rotation; its first use makes it the token
    ssh_public_key: Mapped[str | None] = mapped_column(Text)
    signing_public_key: Mapped[str | None] = mapped_column(String(64))
    key_history: Mapped[dict[str, Any] | None]  # KeyHistory: the keys that were rotated away
    hub_made_at: Mapped[datetime | None]  # when the hub confirmed folder and user for the first time
    hub_key: Mapped[str | None] = mapped_column(Text)  # the SSH key that the hub confirmed last; None once cut
    hub_ready_at: Mapped[datetime | None]  # when the hub confirmed all that it should have of the node
    hub_cut_at: Mapped[datetime | None]  # when the hub confirmed that a revoked node is cut
    suspended_at: Mapped[datetime | None]  # the ledger is held, and other nodes know this one as revoked
    boot_number: Mapped[int | None]
    boot_id: Mapped[str | None] = mapped_column(String(64))
    boot_at: Mapped[datetime | None]
    duplicate_at: Mapped[datetime | None]  # a second live agent was refused; cleared by release
    last_seen_at: Mapped[datetime | None]
    phase: Mapped[str | None] = mapped_column(String(16))  # NodePhase of the last heartbeat
    run_id: Mapped[str | None] = mapped_column(String(48))
    round_number: Mapped[int | None]
    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]  # when `progress` last grew: the stall rule reads it
    waiting: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[str | None] = mapped_column(Text)
    paused_by_site: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    enrolled_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class RunRow(Base):
    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(48), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    status: Mapped[str] = mapped_column(String(16))  # RunStatus
    reason: Mapped[str | None] = mapped_column(Text)  # why PAUSED, STOPPED or FAILED
    config: Mapped[dict[str, Any]]  # RunConfig
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    best_round: Mapped[int | None]


class MemberRow(Base):
    __tablename__ = "members"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))  # MembershipStatus
    counts: Mapped[dict[str, Any] | None]  # TruthCounts
    answered_at: Mapped[datetime | None]


class RoundRow(Base):
    __tablename__ = "rounds"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_number: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(String(16))  # RoundStatus
    reason: Mapped[str | None] = mapped_column(Text)
    opened_at: Mapped[datetime]
    deadline_at: Mapped[datetime | None]
    extended: Mapped[bool] = mapped_column(default=False)  # the one extension for an upload that moves
    frozen_at: Mapped[datetime | None]
    report_deadline_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    plan_version: Mapped[int] = mapped_column(default=0)
    plan: Mapped[dict[str, Any] | None]  # FusionPlan of the newest version
    fused_digest: Mapped[str | None] = mapped_column(String(64))
    fused_file_sha256: Mapped[str | None] = mapped_column(String(64))
    fused_file_bytes: Mapped[int | None] = mapped_column(BigInteger)
    mean_auc: Mapped[float | None]


class ParticipationRow(Base):
    __tablename__ = "participations"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_number: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))  # ParticipationStatus
    reason: Mapped[str | None] = mapped_column(Text)
    update_sha256: Mapped[str | None] = mapped_column(String(64))
    update_bytes: Mapped[int | None] = mapped_column(BigInteger)
    num_cases: Mapped[int | None] = mapped_column(BigInteger)
    num_steps: Mapped[int | None]
    manifest: Mapped[dict[str, Any] | None]  # SignedManifest
    manifest_sha256: Mapped[str | None] = mapped_column(String(64))
    announced_at: Mapped[datetime | None]
    republish_since: Mapped[datetime | None]  # a peer could not find the update; cleared by the owner's next announce
    redo_fusion: Mapped[int] = mapped_column(default=0)
    report: Mapped[dict[str, Any] | None]  # FusionReport, the newest
    reported_at: Mapped[datetime | None]


class RefusalRow(Base):
    """A verifier's word that an update of the plan is missing or not acceptable."""

    __tablename__ = "refusals"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_number: Mapped[int] = mapped_column(primary_key=True)
    plan_version: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(32), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the verifier
    kind: Mapped[str] = mapped_column(String(16))  # RefusalKind
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class WantedFileRow(Base):
    """Rule 7: a file of a run that a node needs, and who was asked to publish it."""

    __tablename__ = "wanted_files"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    file_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(32), primary_key=True)  # who needs it
    at: Mapped[datetime]


class PublishedFileRow(Base):
    """A file of a run that lies in a node's folder on the hub now, beside the updates that were announced."""

    __tablename__ = "published_files"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    file_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(32), primary_key=True)  # in whose folder
    file_bytes: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]


class EventRow(Base):
    """The append-only ledger. Every change of a status leaves one row in the same transaction."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_run_id_event_id", "run_id", "event_id"),)

    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(64))  # "admin", "tick" or a node id
    run_id: Mapped[str | None] = mapped_column(String(48))
    round_number: Mapped[int | None]
    node_id: Mapped[str | None] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]


class LedgerRow(Base):
    """The one row that says which ledger this is. `held_since`: restored from a backup, and not recovered yet."""

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1
    ledger_id: Mapped[str] = mapped_column(String(32))
    generation: Mapped[int] = mapped_column(default=1)
    held_since: Mapped[datetime | None]
    held_because: Mapped[str | None] = mapped_column(Text)  # which node is ahead, and by how much


class SightingRow(Base):
    """What one node has seen of this ledger before it was restored; only while the ledger is held."""

    __tablename__ = "sightings"

    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"), primary_key=True)
    seen: Mapped[dict[str, Any]]  # Seen
    answered_at: Mapped[datetime | None]  # when it had sent all the records it was asked for


class RecordRow(Base):
    """A node's signed record of a round that the restored ledger does not have; only while the ledger is held."""

    __tablename__ = "records"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_number: Mapped[int] = mapped_column(primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.node_id"), primary_key=True)
    record: Mapped[dict[str, Any]]  # RoundRecord, its signature checked
