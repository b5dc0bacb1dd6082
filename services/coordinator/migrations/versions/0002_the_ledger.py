"""The ledger gets an id and a generation, and room for what the sites know should it be restored from a backup."""

import hashlib
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _ledger()
    _sightings()
    _records()
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("suspended_at", _TIME, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.drop_column("suspended_at")
    op.drop_table("records")
    op.drop_table("sightings")
    op.drop_table("ledger")


def _ledger() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ledger_id", sa.String(length=32), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("held_since", _TIME, nullable=True),
        sa.Column("held_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.bulk_insert(ledger, [{"id": 1, "ledger_id": _ledger_id(), "generation": 1}])


def _ledger_id() -> str:
    """From the first event where there is one: a copy from before this upgrade must become the same ledger again."""
    events = sa.table("events", *(sa.column(name) for name in ("event_id", "at", "kind", "node_id", "run_id")))
    first = op.get_bind().execute(sa.select(events).order_by(events.c.event_id).limit(1)).one_or_none()
    if first is None:
        return secrets.token_hex(16)
    return hashlib.sha256("/".join(map(str, first)).encode()).hexdigest()[:32]


def _sightings() -> None:
    op.create_table(
        "sightings",
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("seen", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("answered_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_sightings_node_id_nodes")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_sightings")),
    )


def _records() -> None:
    op.create_table(
        "records",
        sa.Column("run_id", sa.String(length=48), nullable=False),
        sa.Column("round_number", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("record", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_records_node_id_nodes")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_records_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "round_number", "node_id", name=op.f("pk_records")),
    )
