"""The rules of the round (design: "One round") as an outsider can check them, from the tables and the ledger alone.

Read after every step through a connection of its own, so it sees what is committed and nothing else. It shares no code
with the coordinator but the transition tables, and fuses the plans itself, from what the trainers made.

    ledger    every status follows from the events, by moves the transition tables allow; nothing else changed it
    plan      sorted, nobody twice; every update was made in this round, from the model of the round before, by the node
              that stands there, and was accepted before the freeze; a newer version is a part of the older one
    reports   every fused digest is that of the whole plan, as the oracle fuses it
    closed    one round after the other; a closed round tells who was in it, and why others not; it never changes
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hsl_model.checkpoint import tensors_digest
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import (
    MEMBERSHIP_TRANSITIONS,
    PARTICIPATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    RUN_TRANSITIONS,
    Fused,
)

TRANSITIONS: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "run": RUN_TRANSITIONS,
    "round": ROUND_TRANSITIONS,
    "participation": PARTICIPATION_TRANSITIONS,
    "member": MEMBERSHIP_TRANSITIONS,
}
Key = tuple[Any, ...]


class Violation(AssertionError):
    """A rule does not hold."""


def require(holds: object, rule: str, *facts: object) -> None:
    if not holds:
        raise Violation(": ".join([rule, *map(str, facts)]))


@dataclass
class Made:
    """What a trainer made: by whom, in which round, and the tensors."""

    node_id: str
    round_number: int
    tensors: dict[str, np.ndarray[Any, Any]]


@dataclass
class Oracle:
    path: Path
    method: str
    made: dict[str, Made]
    spoilt: set[str] = field(default_factory=set)  # nodes whose disk changed bytes: their digests may differ
    statuses: dict[Key, str] = field(default_factory=dict)
    announced: dict[tuple[int, str], int] = field(default_factory=dict)  # event ids
    frozen: dict[int, int] = field(default_factory=dict)
    recorded: set[tuple[int, str]] = field(default_factory=set)
    reported: set[Key] = field(default_factory=set)
    plans: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)
    num_events: int = 0
    num_looks: int = 0
    _version: int = -1
    _digests: dict[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None)
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        self._db.close()

    def look(self) -> None:
        """Check everything, if anything was committed since the last look."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._version = version
        self.num_looks += 1
        self._db.execute("BEGIN")
        try:
            self._check()
        finally:
            self._db.execute("COMMIT")

    def ledger_digest(self) -> str:
        events = self._all("SELECT at, kind, actor, round_number, node_id, data FROM events ORDER BY event_id")
        return hashlib.sha256(json.dumps([tuple(event) for event in events]).encode()).hexdigest()

    def _check(self) -> None:
        rounds = self._all("SELECT * FROM rounds ORDER BY round_number")
        parts = self._all(
            "SELECT round_number, node_id, status, reason, update_sha256, num_cases, report, manifest"
            " FROM participations ORDER BY round_number, node_id"
        )
        self._check_ledger(rounds, parts)
        require([row["round_number"] for row in rounds] == list(range(len(rounds))), "rounds follow each other")
        for row in rounds[:-1]:
            require(row["status"] == "completed", "a round opens when the last is complete", row["round_number"])
        for row in rounds:
            members = {part["node_id"]: part for part in parts if part["round_number"] == row["round_number"]}
            if row["plan"] is not None:
                self._check_plan(row, members)
            self._check_reports(row, members)
            if row["status"] == "completed":
                self._check_closed(row, members)

    def _all(self, query: str) -> list[sqlite3.Row]:
        return self._db.execute(query).fetchall()

    # --- the ledger --------------------------------------------------------------------------------------------------

    def _check_ledger(self, rounds: list[sqlite3.Row], parts: list[sqlite3.Row]) -> None:
        events = self._all(f"SELECT * FROM events WHERE event_id > {self.num_events} ORDER BY event_id")
        for event in events:
            require(event["event_id"] == self.num_events + 1, "the ledger is only appended to", event["event_id"])
            self.num_events = event["event_id"]
            self._replay(event, json.loads(event["data"]))
        stored: dict[Key, str] = {}
        for row in self._all("SELECT run_id, status FROM runs"):
            stored["run", None, None] = row["status"]
        for row in rounds:
            stored["round", row["round_number"], None] = row["status"]
        for row in parts:
            stored["participation", row["round_number"], row["node_id"]] = row["status"]
        for row in self._all("SELECT node_id, status FROM members"):
            stored["member", None, row["node_id"]] = row["status"]
        for key in stored.keys() | self.statuses.keys():
            found, told = stored.get(key), self.statuses.get(key)
            require(found == told, "tables and ledger say the same", key, f"table {found}, ledger {told}")

    def _replay(self, event: sqlite3.Row, data: dict[str, Any]) -> None:
        what, _, target = event["kind"].partition(".")
        number, node_id = event["round_number"], event["node_id"]
        if event["kind"] == "round.participation_record":
            self.recorded.add((number, node_id))
        if event["kind"] == "participation.reported":
            self.reported.add((number, node_id, data["plan_version"], data["attempt"]))
        if what not in TRANSITIONS or target not in set(map(str, TRANSITIONS[what])):
            return
        key = (what, number, node_id)
        if key in self.statuses:
            source = self.statuses[key]
            allowed = {str(source): targets for source, targets in TRANSITIONS[what].items()}[source]
            require(target in allowed, "every move is one of the table", key, f"{source} -> {target}")
            require(data.get("source") == source, "an event tells where it came from", key, data)
        self.statuses[key] = target
        if event["kind"] == "participation.announced":
            self.announced[number, node_id] = event["event_id"]
        if event["kind"] == "round.fusing":
            self.frozen[number] = event["event_id"]

    # --- plans -------------------------------------------------------------------------------------------------------

    def _check_plan(self, row: sqlite3.Row, members: dict[str, sqlite3.Row]) -> None:
        number, version = row["round_number"], row["plan_version"]
        plan = json.loads(row["plan"])
        known = self.plans.get((number, version))
        if known is not None:
            require(plan == known, "a version of a plan never changes", number, version)
            return
        entries = plan["entries"]
        names = [entry["node_id"] for entry in entries]
        require(names == sorted(set(names)), "nobody stands in a plan twice", number, names)
        for entry in entries:
            self._check_entry(number, entry, members[entry["node_id"]])
        self._check_weights(number, entries)
        before = self.plans.get((number, version - 1))
        require(before is not None or version == 1, "versions follow each other", number, version)
        if before is not None:
            older = {(entry["node_id"], entry["update_sha256"]) for entry in before["entries"]}
            newer = {(entry["node_id"], entry["update_sha256"]) for entry in entries}
            require(newer < older, "a newer version is a part of the older one", number, version)
        self.plans[number, version] = plan

    def _check_entry(self, number: int, entry: dict[str, Any], part: sqlite3.Row) -> None:
        node_id, sha256 = entry["node_id"], entry["update_sha256"]
        require(part["update_sha256"] == sha256, "a plan names the accepted update", number, node_id)
        manifest = json.loads(part["manifest"])["manifest"]
        require(
            (manifest["round_number"], manifest["node_id"]) == (number, node_id), "no mixed rounds", number, node_id
        )
        require(entry["num_cases"] == manifest["num_cases"], "a plan counts the cases that were announced", node_id)
        frozen, announced = self.frozen.get(number, 0), self.announced.get((number, node_id), 0)
        require(0 < announced < frozen, "no late update is used", number, node_id)
        if number == 0 or method_facts(self.method).fused is Fused.NONE:
            return
        made = self.made.get(sha256)
        require(made is not None, "an update was made by somebody", number, node_id, sha256)
        assert made is not None
        require((made.node_id, made.round_number) == (node_id, number), "no mixed rounds", number, node_id, made)
        if method_facts(self.method).fused is Fused.COMMON:
            start = self._db.execute("SELECT fused_digest FROM rounds WHERE round_number = ?", (number - 1,)).fetchone()
            require(manifest["start_digest"] == start[0], "an update starts from the last round's model", number)

    def _check_weights(self, number: int, entries: list[dict[str, Any]]) -> None:
        by_cases = number > 0 and method_facts(self.method).weighting == "cases"
        cases = [entry["num_cases"] if by_cases else 1 for entry in entries]
        expected = [count / sum(cases) for count in cases]
        require([entry["weight"] for entry in entries] == expected, "weights follow the method", number, entries)

    # --- what members report -----------------------------------------------------------------------------------------

    def _check_reports(self, row: sqlite3.Row, members: dict[str, sqlite3.Row]) -> None:
        number = row["round_number"]
        for node_id, part in members.items():
            said = json.loads(part["report"]) if part["report"] else None
            if said is None:
                continue
            key = (number, node_id, said["plan_version"], said["attempt"])
            require(said["validation"] is None or key in self.reported, "a report leaves an event", *key)
            if node_id in self.spoilt:
                continue
            expected = self.digest(number, said["plan_version"])
            require(said["fused_digest"] == expected, "everybody fuses the whole plan", number, node_id, said)

    def digest(self, number: int, version: int) -> str:
        if (number, version) not in self._digests:
            entries = self.plans[number, version]["entries"]
            kind = Fused.COMMON if number == 0 else method_facts(self.method).fused
            self._digests[number, version] = self._fused(entries) if kind is Fused.COMMON else _of_inputs(entries)
        return self._digests[number, version]

    def _fused(self, entries: list[dict[str, Any]]) -> str:
        """w1*x1 + w2*x2 + ... in float64 and sorted order; of counters the largest."""
        models = [(entry["weight"], self.made[entry["update_sha256"]].tensors) for entry in entries]
        fused = {}
        for name, first in models[0][1].items():
            if first.dtype.kind == "f":
                total = models[0][0] * first.astype(np.float64)
                for weight, tensors in models[1:]:
                    total = total + weight * tensors[name].astype(np.float64)
                fused[name] = total.astype(first.dtype)
            else:
                fused[name] = np.maximum.reduce([tensors[name] for _, tensors in models])
        return tensors_digest(fused.items())

    # --- closed rounds -----------------------------------------------------------------------------------------------

    def _check_closed(self, row: sqlite3.Row, members: dict[str, sqlite3.Row]) -> None:
        number = row["round_number"]
        names = ("status", "plan", "plan_version", "fused_digest", "fused_file_sha256", "mean_auc")
        of_members = ("node_id", "status", "reason", "update_sha256", "num_cases")
        lines = [[part[name] for name in of_members] for part in members.values()]
        content = json.dumps([[row[name] for name in names], lines])
        if number in self.closed:
            require(content == self.closed[number], "a closed round never changes", number)
            return
        fused = [node_id for node_id, part in members.items() if part["status"] == "fused"]
        require(fused, "somebody fused a closed round", number)
        if not self.spoilt & set(fused) or len(fused) > 2:
            expected = self.digest(number, row["plan_version"])
            require(row["fused_digest"] == expected, "the ledger holds the digest of the whole plan", number)
        for node_id, part in members.items():
            require((number, node_id) in self.recorded, "a closed round records every member", number, node_id)
            if node_id in fused:
                same = json.loads(part["report"])["fused_digest"] == row["fused_digest"]
                require(same, "those who fused hold the same", number, node_id)
            else:
                require(part["status"] in ("excluded", "failed"), "who did not fuse is out", number, node_id)
                require(part["reason"], "who is out is told why", number, node_id)
        self.closed[number] = content


def _of_inputs(entries: list[dict[str, Any]]) -> str:
    ordered = sorted((entry["node_id"], entry["update_sha256"], entry["weight"]) for entry in entries)
    return hashlib.sha256(json.dumps(ordered, separators=(",", ":")).encode()).hexdigest()
