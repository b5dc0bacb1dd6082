"""Does the coordinator's ledger contradict its tables, or itself? Read offline, from the SQLite file alone.

Events are replayed in order: every status must follow from the one before by the transition table, the last must be
the one in the tables, and no round, no participation and no announced update may be there twice.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from hsl_model.protocol import states

TABLES: Mapping[str, tuple[type[StrEnum], Mapping[Any, frozenset[Any]], str | None]] = {
    # kind -> statuses, transition table, the status a row is born with (None: its first event says so)
    "run": (states.RunStatus, states.RUN_TRANSITIONS, states.RunStatus.DRAFT),
    "round": (states.RoundStatus, states.ROUND_TRANSITIONS, None),
    "participation": (states.ParticipationStatus, states.PARTICIPATION_TRANSITIONS, None),
    "member": (states.MembershipStatus, states.MEMBERSHIP_TRANSITIONS, states.MembershipStatus.INVITED),
}
KEYS = {
    "run": "SELECT run_id, NULL, NULL, status FROM runs",
    "round": "SELECT run_id, round_number, NULL, status FROM rounds",
    "participation": "SELECT run_id, round_number, node_id, status FROM participations",
    "member": "SELECT run_id, NULL, node_id, status FROM members",
}
Key = tuple[str, str, int | None, str | None]


def contradictions(database: sqlite3.Connection) -> list[str]:
    """Sentences; none for a ledger that is right."""
    events = database.execute(
        "SELECT event_id, kind, run_id, round_number, node_id, data FROM events ORDER BY event_id"
    ).fetchall()
    replayed: dict[Key, str] = {}
    wrong = [*_replay(events, replayed), *_against_tables(database, replayed), *_order_of_rounds(events)]
    return wrong + _twice_in_a_plan(database)


def _replay(events: list[tuple[Any, ...]], replayed: dict[Key, str]) -> Iterator[str]:
    for event_id, name, run_id, round_number, node_id, data in events:
        kind, _, status = name.partition(".")
        if kind not in TABLES or status not in list(TABLES[kind][0]):
            continue  # tells of something that is no status
        statuses, table, born = TABLES[kind]
        key = (kind, run_id, round_number, node_id)
        before = replayed.get(key, born)
        after = statuses(status)
        said = json.loads(data).get("source")
        if before is None and said is not None:
            yield f"event {event_id}: {name} of {key} comes from {said}, but nothing was there before"
        elif before is not None and said is None and key in replayed:
            yield f"event {event_id}: {name} of {key} happened twice"
        elif before is not None and said is not None:
            if said != before:
                yield f"event {event_id}: {name} of {key} says it was {said}; the ledger says {before}"
            if after not in table[statuses(before)]:
                yield f"event {event_id}: {key} cannot go from {before} to {after}"
        replayed[key] = after


def _against_tables(database: sqlite3.Connection, replayed: Mapping[Key, str]) -> Iterator[str]:
    stored: dict[Key, str] = {}
    for kind, query in KEYS.items():
        for run_id, round_number, node_id, status in database.execute(query):
            stored[kind, run_id, round_number, node_id] = status
    for key in sorted(stored.keys() | replayed.keys(), key=str):
        told = replayed.get(key, TABLES[key[0]][2])
        if stored.get(key) != told:
            yield f"{key} is {stored.get(key)} in the tables and {told} by the ledger"


def _order_of_rounds(events: list[tuple[Any, ...]]) -> Iterator[str]:
    """A round opens after the one before it is completed, each once."""
    completed: dict[str, int] = {}
    opened = Counter((run_id, number) for _, name, run_id, number, *_ in events if name == "round.open")
    yield from (
        f"round {number} of {run_id} was opened {times} times"
        for (run_id, number), times in opened.items()
        if times > 1
    )
    for event_id, name, run_id, number, *_ in events:
        if name == "round.open" and number > 0 and completed.get(run_id) != number - 1:
            yield f"event {event_id}: round {number} opened when {completed.get(run_id)} was the last one completed"
        if name == "round.completed":
            completed[run_id] = number


def _twice_in_a_plan(database: sqlite3.Connection) -> list[str]:
    wrong = []
    for run_id, number, plan in database.execute("SELECT run_id, round_number, plan FROM rounds WHERE plan NOT NULL"):
        nodes = Counter(entry["node_id"] for entry in json.loads(plan)["entries"])
        if twice := sorted(node for node, times in nodes.items() if times > 1):
            wrong.append(f"the plan of round {number} of {run_id} counts {', '.join(twice)} twice")
    return wrong
