"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _events()
    _nodes()
    _runs()
    _members()
    _participations()
    _published_files()
    _refusals()
    _rounds()
    _wanted_files()


def downgrade() -> None:
    op.drop_table("wanted_files")
    op.drop_table("rounds")
    op.drop_table("refusals")
    op.drop_table("published_files")
    op.drop_table("participations")
    op.drop_table("members")
    op.drop_table("runs")
    op.drop_table("nodes")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_run_id_event_id")

    op.drop_table("events")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=48), nullable=True),
        sa.Column("round_number", sa.Integer(), nullable=True),
        sa.Column("node_id", sa.String(length=32), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_run_id_event_id", ["run_id", "event_id"], unique=False)


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("display_name", sa.String(length=120), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=True),
        sa.Column("code_expires_at", _TIME, nullable=True),
        sa.Column("code_taken_by", sa.String(length=64), nullable=True),
        sa.Column("token_hash", sa.String(length=64), nullable=True),
        sa.Column("token_used_at", _TIME, nullable=True),
        sa.Column("ssh_public_key", sa.Text(), nullable=True),
        sa.Column("signing_public_key", sa.String(length=64), nullable=True),
        sa.Column("hub_ready_at", _TIME, nullable=True),
        sa.Column("hub_cut_at", _TIME, nullable=True),
        sa.Column("boot_number", sa.Integer(), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("boot_at", _TIME, nullable=True),
        sa.Column("duplicate_at", _TIME, nullable=True),
        sa.Column("last_seen_at", _TIME, nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("run_id", sa.String(length=48), nullable=True),
        sa.Column("round_number", sa.Integer(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("progress_at", _TIME, nullable=True),
        sa.Column("waiting", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("paused_by_site", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("enrolled_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_nodes")),
        sa.UniqueConstraint("code_hash", name=op.f("uq_nodes_code_hash")),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("paused_at", _TIME, nullable=True),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.Column("best_round", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )


def _members() -> None:
    op.create_table(
        "members",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=True),
        sa.Column("answered_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_members_node_id_nodes")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_members_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "node_id", name=op.f("pk_members")),
    )


def _participations() -> None:
    op.create_table(
        "participations",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("round_number", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("update_sha256", sa.String(length=64), nullable=True),
        sa.Column("update_bytes", sa.BigInteger(), nullable=True),
        sa.Column("num_cases", sa.BigInteger(), nullable=True),
        sa.Column("num_steps", sa.Integer(), nullable=True),
        sa.Column("manifest", sa.JSON(), nullable=True),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=True),
        sa.Column("announced_at", _TIME, nullable=True),
        sa.Column("republish_since", _TIME, nullable=True),
        sa.Column("redo_fusion", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("reported_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_participations_node_id_nodes")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_participations_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "round_number", "node_id", name=op.f("pk_participations")),
    )


def _published_files() -> None:
    op.create_table(
        "published_files",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_published_files_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "file_sha256", "node_id", name=op.f("pk_published_files")),
    )


def _refusals() -> None:
    op.create_table(
        "refusals",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("round_number", sa.Integer(), nullable=False),
        sa.Column("plan_version", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_refusals_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "round_number", "plan_version", "owner", "node_id", name=op.f("pk_refusals")),
    )


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("round_number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("deadline_at", _TIME, nullable=True),
        sa.Column("extended", sa.Boolean(), nullable=False),
        sa.Column("frozen_at", _TIME, nullable=True),
        sa.Column("report_deadline_at", _TIME, nullable=True),
        sa.Column("completed_at", _TIME, nullable=True),
        sa.Column("plan_version", sa.Integer(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=True),
        sa.Column("fused_digest", sa.String(length=64), nullable=True),
        sa.Column("fused_file_sha256", sa.String(length=64), nullable=True),
        sa.Column("fused_file_bytes", sa.BigInteger(), nullable=True),
        sa.Column("mean_auc", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_rounds_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "round_number", name=op.f("pk_rounds")),
    )


def _wanted_files() -> None:
    op.create_table(
        "wanted_files",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_wanted_files_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "file_sha256", "node_id", name=op.f("pk_wanted_files")),
    )
