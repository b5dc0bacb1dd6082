"""Keys that are rotated, and which step of a node's account the hub has confirmed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("next_token_hash", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("key_history", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("hub_made_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("hub_key", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        for name in ("hub_key", "hub_made_at", "key_history", "next_token_hash"):
            batch_op.drop_column(name)
