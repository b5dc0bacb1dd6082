"""Bring the database to the newest schema, in one transaction that nobody shares.

Two coordinators that start at once: the second waits for the lock, finds nothing to do and goes on.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from coordinator.db import Database
from hsl_model.protocol.errors import HslError

_LOCK = 4_857_130_215  # any number that nobody else on this PostgreSQL uses for an advisory lock


class SchemaTooNewError(HslError):
    code = "schema_too_new"
    title = "The database belongs to a newer coordinator"
    template = (
        "The database's schema is at revision {revision}, which this coordinator does not know: install the newer "
        "version again, or restore the database from before its upgrade."
    )


def upgrade_database(database: Database) -> None:
    """Raises `SchemaTooNewError` when a newer coordinator has been here."""
    with database.engine.begin() as connection:  # SQLite: BEGIN IMMEDIATE is the lock
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = alembic_config(connection)
        revision = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise SchemaTooNewError(revision=revision)
        command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
