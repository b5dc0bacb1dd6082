"""What Alembic runs: always on the connection that `upgrade_database` (or a test) hands over."""

from alembic import context

from coordinator.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
