"""The two kinds of session, on both databases."""

import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError, InternalError, OperationalError, StatementError

from coordinator.db import Database, has_changed
from coordinator.tables import EventRow, MemberRow, NodeRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_node(node_id: str) -> NodeRow:
    return NodeRow(node_id=node_id, display_name=node_id, status="created", created_at=NOW)


def an_event(kind: str = "test.happened") -> EventRow:
    return EventRow(at=NOW, kind=kind, actor="admin", data={})


def test_sqlite_keeps_what_it_committed_through_a_power_cut(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    names = ("journal_mode", "foreign_keys", "synchronous")
    with database.engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    database.close()
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}  # 2 is FULL


def test_writing_commits_at_the_end_and_not_after_an_exception(database: Database) -> None:
    def write_twice(node_id: str) -> None:
        with database.writing() as session:
            for _ in range(2):
                values = {"node_id": node_id, "display_name": "", "status": "", "created_at": NOW}
                session.execute(insert(NodeRow).values(**values, paused_by_site=False))

    with database.writing() as session:
        session.add(a_node("alpha"))
    with pytest.raises(IntegrityError):
        write_twice("beta")
    with database.reading() as session:
        assert session.scalars(select(NodeRow.node_id)).all() == ["alpha"]


def test_reading_sees_one_moment_and_is_not_held_up_by_a_writer(database: Database) -> None:
    with database.reading() as reader:
        assert reader.scalars(select(NodeRow)).all() == []
        with database.writing() as writer:
            writer.add(a_node("alpha"))
            writer.flush()
            with database.reading() as other:
                assert other.scalars(select(NodeRow)).all() == []
        assert reader.scalars(select(NodeRow)).all() == [], "the moment it began with"
    with database.reading() as later:
        assert len(later.scalars(select(NodeRow)).all()) == 1


def test_what_a_reader_writes_is_thrown_away(database: Database) -> None:
    refused = nullcontext() if database.is_sqlite else pytest.raises(InternalError, match="read-only")
    with refused, database.reading() as session:
        session.add(a_node("alpha"))
        session.flush()
    with database.reading() as session:
        assert session.scalars(select(NodeRow)).all() == []


def test_a_second_writer_on_sqlite_waits_for_the_first(sqlite_url: str) -> None:
    """BEGIN IMMEDIATE: it waits before its first read, not when it is too late to see what the first one wrote."""
    database = Database(sqlite_url)
    seen: list[str] = []

    def second() -> None:
        with database.writing() as session:
            seen.extend(session.scalars(select(NodeRow.node_id)))

    with database.writing() as session:
        session.execute(select(NodeRow))
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
        session.add(a_node("alpha"))
    waiting.join()
    database.close()
    assert seen == ["alpha"]


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError), database.writing() as session:
        session.add(MemberRow(run_id="no-run", node_id="no-node", status="invited"))


def test_has_changed_is_about_what_nodes_could_be_told(database: Database) -> None:
    with database.writing() as session:
        session.add(a_node("alpha"))
    assert not has_changed(session), "a node's row concerns nobody else"
    with database.writing() as session:
        session.execute(update(NodeRow).values(last_seen_at=NOW))
        session.execute(select(EventRow)).all()
    assert not has_changed(session)
    with database.writing() as session:
        session.add(an_event())
    assert has_changed(session)
    with database.writing() as session:
        row = session.scalars(select(EventRow)).one()
        row.kind = "test.happened"  # the same value
        session.flush()
        session.execute(update(EventRow).where(EventRow.kind == "no.such").values(kind="x"))
    assert not has_changed(session), "nothing was changed"
    with database.writing() as session:
        session.execute(update(EventRow).values(kind="test.renamed"))
    assert has_changed(session)


def test_times_come_back_aware_and_in_utc(database: Database) -> None:
    local = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    with database.writing() as session:
        node = a_node("alpha")
        node.enrolled_at = local
        session.add(node)
    with database.reading() as session:
        found = session.get_one(NodeRow, "alpha").enrolled_at
    assert found == local
    assert found is not None
    assert found.tzinfo is UTC
    with pytest.raises(StatementError, match="aware"), database.writing() as session:
        session.execute(update(NodeRow).values(enrolled_at=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_ping_tells_when_the_database_is_gone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no-such-folder/x.db")
    with pytest.raises(OperationalError):
        database.ping()
    database.close()


def test_ping_answers(database: Database) -> None:
    database.ping()
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
