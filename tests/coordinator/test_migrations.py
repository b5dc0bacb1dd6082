"""The migrations make exactly the tables of the code, on both databases, whoever comes first."""

import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect, select, text

from coordinator.db import Database
from coordinator.migrations.upgrade import SchemaTooNewError, alembic_config, upgrade_database
from coordinator.tables import Base, EventRow, LedgerRow, RunRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_migrations_equal_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(insert(RunRow).values(run_id="r", name="r", status="draft", config={}, created_at=NOW))
    upgrade_database(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar() == 1


def test_back_and_forth(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    upgrade_database(database)
    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    upgrade_database(database)
    assert set(Base.metadata.tables) < set(inspect(database.engine).get_table_names())
    database.close()


def test_two_coordinators_that_start_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def start(number: int) -> None:
        database = Database(f"sqlite:///{tmp_path}/x.db")
        together.wait()
        upgrade_database(database)
        database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))


def test_a_new_file_that_another_process_writes_just_now_is_waited_for(tmp_path: Path) -> None:
    """SQLite answers "locked" at once here, whatever the time-out."""
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE x (y)")
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.2, other.execute, ["COMMIT"])
    end.start()
    database = Database(f"sqlite:///{tmp_path}/x.db")
    database.ping()
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    database.close()
    end.join()
    other.close()


def test_a_database_of_a_newer_coordinator_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    upgrade_database(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNewError, match="9999"):
        upgrade_database(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    database.close()


def test_a_ledger_from_before_it_had_an_id_gets_the_same_one_in_every_copy(tmp_path: Path) -> None:
    """A backup from before the upgrade must not look like another coordinator's ledger to the nodes."""
    old = Database(f"sqlite:///{tmp_path}/old.db")
    with old.engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        connection.execute(insert(EventRow).values(at=NOW, kind="node.created", actor="admin", node_id="a", data={}))
    old.close()
    found = []
    for name in ("first", "second", "new"):
        if name != "new":
            shutil.copyfile(tmp_path / "old.db", tmp_path / f"{name}.db")
        database = Database(f"sqlite:///{tmp_path}/{name}.db")
        upgrade_database(database)
        with database.engine.connect() as connection:
            found.append(connection.execute(select(LedgerRow.ledger_id, LedgerRow.generation)).one())
        database.close()
    assert found[0] == found[1] != found[2]
    assert [(len(one.ledger_id), one.generation) for one in found] == [(32, 1)] * 3
