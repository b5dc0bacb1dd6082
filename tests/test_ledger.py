"""The checker of the ledger is right about a right one, and names each kind of contradiction."""

import json
import sqlite3
from collections.abc import Iterator

import pytest

from tests.ledger import contradictions

RIGHT = (
    # kind, round, node, source
    ("run.running", None, None, "draft"),
    ("round.open", 0, None, None),
    ("participation.assigned", 0, "a", None),
    ("participation.announced", 0, "a", "assigned"),
    ("round.fusing", 0, None, "open"),
    ("participation.fusing", 0, "a", "announced"),
    ("participation.reported", 0, "a", None),
    ("participation.fused", 0, "a", "fusing"),
    ("round.completed", 0, None, "fusing"),
    ("round.open", 1, None, None),
)
TABLES = """
CREATE TABLE events (event_id INTEGER PRIMARY KEY, kind, run_id, round_number, node_id, data);
CREATE TABLE runs (run_id, status);
CREATE TABLE rounds (run_id, round_number, status, plan);
CREATE TABLE participations (run_id, round_number, node_id, status);
CREATE TABLE members (run_id, node_id, status);
INSERT INTO runs VALUES ('r', 'running');
INSERT INTO rounds VALUES ('r', 0, 'completed', '{"entries": [{"node_id": "a"}]}'), ('r', 1, 'open', NULL);
INSERT INTO participations VALUES ('r', 0, 'a', 'fused');
INSERT INTO members VALUES ('r', 'a', 'invited');
"""


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    for kind, number, node, source in RIGHT:
        note(connection, kind, number, node, source)
    yield connection
    connection.close()


def note(connection: sqlite3.Connection, kind: str, number: int | None, node: str | None, source: str | None) -> None:
    data = json.dumps({} if source is None else {"source": source})
    connection.execute("INSERT INTO events VALUES (NULL, ?, 'r', ?, ?, ?)", (kind, number, node, data))


def test_a_right_ledger(database: sqlite3.Connection) -> None:
    assert contradictions(database) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE participations SET status = 'fusing'", "is fusing in the tables and fused by the ledger"),
        ("DELETE FROM events WHERE kind = 'round.fusing'", "says it was fusing; the ledger says open"),
        ("DELETE FROM events WHERE kind = 'participation.assigned'", "but nothing was there before"),
        ("DELETE FROM participations", "is None in the tables"),
        ("UPDATE events SET data = '{\"source\": \"open\"}' WHERE kind = 'round.completed'", "the ledger says fusing"),
        ("INSERT INTO events SELECT 99, kind, run_id, 1, NULL, '{}' FROM events WHERE event_id = 2", "opened 2 times"),
        ("DELETE FROM events WHERE kind = 'round.completed'", "round 1 opened when None was the last one completed"),
        ('UPDATE rounds SET plan = \'{"entries": [{"node_id": "a"}, {"node_id": "a"}]}\'', "counts a twice"),
    ],
)
def test_what_contradicts_is_named(database: sqlite3.Connection, change: str, said: str) -> None:
    database.execute(change)
    assert any(said in sentence for sentence in contradictions(database)), contradictions(database)


def test_a_step_that_no_transition_allows(database: sqlite3.Connection) -> None:
    note(database, "participation.training", 0, "a", "fused")
    database.execute("UPDATE participations SET status = 'training'")
    assert any("cannot go from fused to training" in sentence for sentence in contradictions(database))
