import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.errors import IllegalTransitionError
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase
from node_agent.errors import Failure, JournalVersionError
from node_agent.facts import RoundFacts
from node_agent.journal import MIGRATIONS, Journal
from tests.node_agent.alliance import make_config

FACTS = RoundFacts(run_id="run-1", round_number=3, config=make_config())
OFFLINE = Failure(FailureKind.CONNECTION, "coordinator_connection", "The coordinator could not be reached.")
BROKEN = Failure(FailureKind.REJECTED, "class_missing", "No image of class fracture was found.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, ManualClock())
    yield opened
    opened.close()


def test_a_new_journal_is_idle_and_private(journal: Journal, path: Path) -> None:
    row = journal.current()
    assert (row.phase, row.facts, row.attempt) == (NodePhase.IDLE, None, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_phase_and_facts_survive_a_restart_together(journal: Journal, path: Path) -> None:
    journal.move(NodePhase.TRAINING, FACTS)
    again = Journal(path, ManualClock())
    assert (again.current().phase, again.current().facts) == (NodePhase.TRAINING, FACTS)
    again.close()


def test_commits_are_forced_to_the_disk(journal: Journal) -> None:
    with journal.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_what_fails_inside_a_transaction_leaves_nothing(journal: Journal) -> None:
    def killed() -> None:
        with journal.transaction():
            journal.move(NodePhase.TRAINING, FACTS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert journal.current().phase is NodePhase.IDLE


def test_a_move_the_table_does_not_know_is_refused(journal: Journal) -> None:
    journal.move(NodePhase.TRAINING, FACTS)
    with pytest.raises(IllegalTransitionError):
        journal.move(NodePhase.FUSING, FACTS)
    assert journal.current().phase is NodePhase.TRAINING


def test_a_transient_failure_keeps_the_phase_and_a_move_forgets_it(journal: Journal) -> None:
    clock = ManualClock()
    journal.move(NodePhase.TRAINING, FACTS)
    journal.postpone(clock.now(), OFFLINE, 2)
    row = journal.current()
    assert (row.phase, row.retry_at, row.failure, row.attempt) == (NodePhase.TRAINING, clock.now(), OFFLINE, 2)
    journal.move(NodePhase.CHECKPOINTING, FACTS)
    row = journal.current()
    assert (row.retry_at, row.failure, row.attempt) == (None, None, 0)


def test_a_permanent_failure_remembers_where_to_go_back_to(journal: Journal) -> None:
    journal.move(NodePhase.TRAINING, FACTS)
    journal.fail(BROKEN, "run-1/3")
    row = journal.current()
    assert (row.phase, row.failed_phase, row.failed_situation) == (NodePhase.FAILED, NodePhase.TRAINING, "run-1/3")
    assert (row.failure, row.facts) == (BROKEN, FACTS)
    journal.retry_now()
    row = journal.current()
    assert (row.phase, row.failure, row.failed_phase) == (NodePhase.TRAINING, None, None)


def test_retry_now_forgets_the_time_of_the_next_try(journal: Journal) -> None:
    journal.move(NodePhase.TRAINING, FACTS)
    journal.postpone(ManualClock().now(), OFFLINE, 5)
    journal.retry_now()
    assert (journal.current().retry_at, journal.current().attempt) == (None, 0)


def test_the_boot_number_rises_with_every_start(journal: Journal, path: Path) -> None:
    assert [journal.next_boot(), journal.next_boot()] == [1, 2]
    again = Journal(path, ManualClock())
    assert again.next_boot() == 3
    again.close()


def test_the_sites_pause_is_kept(journal: Journal, path: Path) -> None:
    journal.set_paused(True)
    again = Journal(path, ManualClock())
    assert again.paused
    again.close()


def test_an_older_journal_migrates_forward_and_keeps_its_row(journal: Journal, path: Path) -> None:
    journal.move(NodePhase.TRAINING, FACTS)
    newer = (*MIGRATIONS, "ALTER TABLE agent ADD COLUMN colour TEXT NOT NULL DEFAULT 'green'")
    again = Journal(path, ManualClock(), newer)
    assert again.current().facts == FACTS
    with again.transaction() as connection:
        assert connection.execute("SELECT colour FROM agent").fetchone()[0] == "green"
    again.close()


def test_a_newer_journal_is_refused_untouched(journal: Journal, path: Path) -> None:
    newer = (*MIGRATIONS, "CREATE TABLE later (id INTEGER)")
    Journal(path, ManualClock(), newer).close()
    with pytest.raises(JournalVersionError) as caught:
        Journal(path, ManualClock())
    assert "install the newer agent" in caught.value.sentence()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(newer)
    connection.close()
