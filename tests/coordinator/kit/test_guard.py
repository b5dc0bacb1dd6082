"""The guarded move, on both databases."""

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from coordinator.db import Database, has_changed
from coordinator.kit.guard import guarded_update
from coordinator.tables import RoundRow, RunRow
from hsl_model.protocol.errors import IllegalTransitionError
from hsl_model.protocol.states import RUN_TRANSITIONS, RoundStatus, RunStatus, sources_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def run_id(database: Database) -> str:
    with database.writing() as session:
        session.add(RunRow(run_id="run-1", name="x", status=RunStatus.RUNNING.value, config={}, created_at=NOW))
        session.flush()
        session.add(RoundRow(run_id="run-1", round_number=3, status=RoundStatus.OPEN.value, opened_at=NOW))
    return "run-1"


def test_moves_the_row_with_its_values_and_shows_them(database: Database, run_id: str) -> None:
    with database.writing() as session:
        row = session.get_one(RunRow, run_id)
        row.name = "not yet flushed"
        assert guarded_update(session, RunRow, run_id, (RunStatus.RUNNING,), RunStatus.PAUSED, paused_at=NOW)
        assert (row.status, row.paused_at, row.name) == ("paused", NOW, "not yet flushed")
    with database.reading() as session:
        assert session.get_one(RunRow, run_id).status == "paused"


def test_a_key_of_several_columns(database: Database, run_id: str) -> None:
    with database.writing() as session:
        assert guarded_update(session, RoundRow, (run_id, 3), (RoundStatus.OPEN,), RoundStatus.FUSING)
        assert not guarded_update(session, RoundRow, (run_id, 4), (RoundStatus.OPEN,), RoundStatus.FUSING)


def test_changes_nothing_from_another_status(database: Database, run_id: str) -> None:
    with database.writing() as session:
        allowed = sources_of(RUN_TRANSITIONS, RunStatus.RUNNING)
        assert not guarded_update(session, RunRow, run_id, allowed, RunStatus.RUNNING, reason="never written")
        assert session.get_one(RunRow, run_id).reason is None
    assert not has_changed(session)


def test_reads_again_what_somebody_else_moved(database: Database, run_id: str) -> None:
    with database.writing() as session:
        row = session.get_one(RunRow, run_id)
        session.connection().execute(text("UPDATE runs SET status = 'stopped'"))  # unseen by the session
        assert not guarded_update(session, RunRow, run_id, (RunStatus.RUNNING,), RunStatus.PAUSED)
        assert row.status == "stopped"


def test_a_move_that_does_not_exist_is_a_mistake(database: Database, run_id: str) -> None:
    with database.writing() as session, pytest.raises(IllegalTransitionError):
        guarded_update(session, RunRow, run_id, (RunStatus.COMPLETED,), RunStatus.RUNNING)


def test_of_two_that_move_the_same_row_at_once_one_wins(database: Database, run_id: str) -> None:
    start, moved = threading.Barrier(4), []

    def move() -> None:
        start.wait()
        with database.writing() as session:
            session.get(RunRow, run_id)
            moved.append(guarded_update(session, RunRow, run_id, (RunStatus.RUNNING,), RunStatus.PAUSED))

    threads = [threading.Thread(target=move) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [False, False, False, True]
